"""Inference: `Predictor(checkpoint)(image)`."""

from __future__ import annotations

import copy
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.checkpoints.kinds import is_exported
from effvim.config.packaged import published_or_given
from effvim.config.run_spec import RunSpec
from effvim.config.runtime import RuntimeChoices
from effvim.config.tiling import TILED_MEGAPIXELS, Tiling
from effvim.images import as_rgb, read_image
from effvim.inference.exported_network import ExportedNetwork
from effvim.inference.network_output import NetworkOutput
from effvim.inference.prediction import Prediction
from effvim.inference.tiles import Assembly, Grid, Part

if TYPE_CHECKING:
    from effvim.inference.network import Network

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
Key = TypeVar('Key')
Result = TypeVar('Result')


class Predictor:
    """A trained detector or segmentor, called with images.

    Examples:
        >>> from effvim import Predictor
        >>> prediction = Predictor('retinanet_effvim_m4')('street.jpg')  # doctest: +SKIP
        >>> prediction.boxes, prediction.scores, prediction.labels  # doctest: +SKIP
        >>> prediction.draw(score_thr=0.3).save('annotated.png')  # doctest: +SKIP

    An image is a path, a Pillow image, or an array H W 3, uint8, RGB; `effvim.images` says how
    other kinds become that. The result does not depend on what else is predicted: images share a
    batch if the network sees them at the same size.

    Args:
        model: a checkpoint of this project's training or an exported file, which know their
            config; or a config, as a path or the name of a packaged one, followed by `checkpoint`.
            The name of a packaged config alone means its published weights, which are downloaded
            once.
        checkpoint: the checkpoint or exported file, if `model` is a config.
        batch_size: the largest number of images that the network sees at once.
        device: where it runs, e.g. 'cpu' (default: a GPU where there is one and its runtime can
            use it; OpenVINO takes the CPU).
        runtime: what runs an exported file: 'onnxruntime' or 'openvino' (default: by its format).
        precision: that OpenVINO computes in: 'float32' (default), 'bfloat16' or 'float16'.
        threads: number of threads for an exported file.
        streams: number of images that OpenVINO computes at the same time; 0: as many as are best.
        fuse: fold BN layers and learned scale factors into the convolutions: same results, faster.
        tile: side in pixels of the overlapping tiles in which each image is predicted, for images
            that are much larger than the network's input (default: images are predicted whole).
        overlap: fraction of a tile that it shares with the next one.
        options: overrides of the config, by dotted key or as 'KEY=VALUE' strings, e.g.
            ['model.test_cfg.score_thr=0.01'].
        mini: as in training; a checkpoint of this project knows it.
        from_scratch: as in training; a checkpoint of this project knows it.

    Attributes:
        classes: class names by label.
        max_megapixels: images that are larger are refused; infinite where Pillow's own limit holds.

    Raises:
        UserError: a file is absent or corrupt, or config and checkpoint do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 1,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        streams: int | None = None,
        fuse: bool = True,
        tile: int | None = None,
        overlap: float = Tiling.overlap,
        options: Mapping[str, Any] | Sequence[str] = (),
        mini: bool = False,
        from_scratch: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f'batch_size must be at least 1, got {batch_size}')
        self.batch_size = batch_size
        self._set_tiles(tile, overlap)
        config: str | None = str(model)
        if checkpoint is None:
            checkpoint, config = published_or_given(model, None)
            if not Path(checkpoint).is_file():
                raise UserError(
                    f'{model} not found: pass a checkpoint, a config followed by its checkpoint, '
                    f'or a name that effvim weights list prints'
                )
        path = str(checkpoint)
        exported = is_exported(path)
        choices = RuntimeChoices(
            runtime=runtime,
            device=device if exported else None,
            precision=precision,
            threads=threads,
            streams=streams,
        )
        choices.check(path)
        network: Network | ExportedNetwork | None = None
        if exported and not (config or options or mini or from_scratch):
            network = ExportedNetwork.open(path, choices)
        if network is None:
            from effvim.config.editing import parse_options
            from effvim.inference.network import Network

            asked = RunSpec.asked(
                config,
                mini=mini,
                from_scratch=from_scratch,
                options=options if isinstance(options, Mapping) else parse_options(options),
            )
            network = Network(config, path, asked, choices if exported else device, fuse)
        self.network = network
        self.classes = self.network.classes

    def _set_tiles(self, tile: int | None, overlap: float) -> None:
        self.tiling = None if tile is None else Tiling(tile, overlap)
        if self.tiling:
            self.tiling.check()
        self.max_megapixels = TILED_MEGAPIXELS if self.tiling else math.inf

    def in_tiles(self, tile: int | None, overlap: float = Tiling.overlap) -> Predictor:
        """A predictor with the same network, in memory once, and other tiles.

        Args:
            tile: see the class; None: images are predicted whole.
            overlap: see the class.

        Raises:
            UserError: one is out of range.
        """
        other = copy.copy(self)
        other._set_tiles(tile, overlap)
        return other

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def __call__(
        self, images: ImageLike | list[Any] | tuple[Any, ...]
    ) -> Prediction | list[Prediction]:
        """Predict one image, or each of several.

        Raises:
            UserError: an image cannot be read; names it.
        """
        if isinstance(images, (list, tuple)):
            predictions = dict(self.stream(enumerate(images)))
            return [predictions[i] for i in range(len(images))]
        return next(self.stream([(0, images)]))[1]

    def stream(
        self,
        images: Iterable[tuple[Key, ImageLike]],
        watch: Callable[[Key, float], None] | None = None,
    ) -> Iterator[tuple[Key, Prediction]]:
        """Predict pairs (key, image), yielding pairs (key, prediction) as they get ready.

        Few images are held at a time, however many there are; pairs may come in another order.

        Args:
            images: keys of any kind, and images.
            watch: of an image in tiles, called with its key and the fraction of it that is done.
        """
        if self.tiling:
            yield from self._in_tiles(self.tiling, images, watch)
        else:
            yield from self._stream(images, self._prediction)

    def check_size(self, image: np.ndarray, name: str = 'the image') -> None:
        """Check that an image has at least one pixel along each axis as the network sees it.

        Args:
            image: H W 3.
            name: what the message calls it.

        Raises:
            UserError: it is too long and thin.
        """
        longest = self.tiling.size if self.tiling else math.inf
        height, width = (min(side, longest) for side in image.shape[:2])
        if not self.network.accepts(int(height), int(width)):
            raise UserError(
                f'{name}: {image.shape[1]} × {image.shape[0]} pixels are too long and thin for '
                f"the network's input: cut the image into pieces"
            )

    def _prediction(self, image: np.ndarray, output: NetworkOutput) -> Prediction:
        found = {name: value for name, value in vars(output).items() if name != 'logits'}
        return Prediction(image, self.classes, **found)

    def _in_tiles(
        self,
        tiling: Tiling,
        images: Iterable[tuple[Key, ImageLike]],
        watch: Callable[[Key, float], None] | None,
    ) -> Iterator[tuple[Key, Prediction]]:
        started: dict[int, tuple[Key, np.ndarray, Assembly]] = {}

        def tiles() -> Iterator[tuple[int, np.ndarray]]:
            for number, (key, image) in enumerate(images):
                array = _array(image, self.max_megapixels)
                grid = Grid.of(tiling, *array.shape[:2])
                network = self.network
                assembly = Assembly(grid, len(self.classes), network.segments, network.nms_iou)
                started[number] = key, array, assembly
                for window in grid:
                    yield number, window.cut_from(array)

        for number, part in self._stream(tiles(), lambda _, output: Part.of(output)):
            key, array, assembly = started[number]
            complete = assembly.add(part)
            if watch:
                watch(key, assembly.done / len(assembly.grid))
            if complete:
                del started[number]
                if assembly.blender:
                    yield key, Prediction(array, self.classes, label_map=assembly.blender.labels)
                else:
                    yield key, Prediction(array, self.classes, *assembly.instances())

    def _stream(
        self,
        images: Iterable[tuple[Key, ImageLike]],
        convert: Callable[[np.ndarray, NetworkOutput], Result],
    ) -> Iterator[tuple[Key, Result]]:
        """As `stream`, of what `convert` makes of an image and the network's output."""
        waiting: dict[Hashable, list[tuple[Key, np.ndarray, Any]]] = defaultdict(list)
        started: deque[tuple[Any, Any, Callable[[], Sequence[NetworkOutput]]]] = deque()

        def start(batch: list[tuple[Key, np.ndarray, Any]]) -> Iterator[tuple[Key, Result]]:
            keys, arrays, samples = zip(*batch)
            started.append((keys, arrays, self.network.start(samples)))
            if sum(len(keys) for keys, _, _ in started) >= self.network.in_flight:
                yield from finish()

        def finish() -> Iterator[tuple[Key, Result]]:
            keys, arrays, outputs = started.popleft()
            yield from zip(keys, map(convert, arrays, outputs()))

        for key, image in images:
            array = _array(image)
            self.check_size(array)
            kind, sample = self.network.preprocess(array)
            waiting[kind].append((key, array, sample))
            fullest = max(waiting, key=lambda kind: len(waiting[kind]))
            if (
                len(waiting[fullest]) == self.batch_size
                or sum(map(len, waiting.values())) == 4 * self.batch_size
            ):
                yield from start(waiting.pop(fullest))
        for batch in waiting.values():
            yield from start(batch)
        while started:
            yield from finish()


def _array(image: ImageLike, max_megapixels: float = math.inf) -> np.ndarray:
    if isinstance(image, Image.Image):
        try:
            return as_rgb(image)  # decodes it, if that is still to be done
        except (OSError, SyntaxError) as error:
            raise UserError(f'the image cannot be read: {error}') from error
    if not isinstance(image, np.ndarray):
        return read_image(image, max_megapixels=max_megapixels)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f'an image as an array is H W 3, uint8, RGB; got {image.dtype} of shape '
            f'{image.shape}: convert others with PIL.Image.fromarray'
        )
    return image
