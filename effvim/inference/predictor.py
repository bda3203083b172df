"""Inference: `Predictor(checkpoint)(image)`."""

from __future__ import annotations

import importlib
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints.matching import fit_state_dict
from effvim.config.editing import parse_options, set_classes
from effvim.config.packaged import is_model_file
from effvim.config.prepare import PreparedRun, prepare
from effvim.config.reading import import_plugins
from effvim.config.run_spec import RunSpec
from effvim.config.structure import is_segmentor
from effvim.console import quiet
from effvim.images import as_rgb, read_image
from effvim.inference.prediction import Prediction

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
Key = TypeVar('Key')


class Predictor:
    """A trained detector or segmentor, called with images.

    Examples:
        >>> from effvim import Predictor
        >>> prediction = Predictor('run/epoch_12.pth')('street.jpg')  # doctest: +SKIP
        >>> prediction.boxes, prediction.scores, prediction.labels  # doctest: +SKIP
        >>> prediction.draw(score_thr=0.3).save('annotated.png')  # doctest: +SKIP

    An image is a path, a Pillow image, or an array H W 3, uint8, RGB; `effvim.images` says how
    other kinds become that. The result does not depend on what else is predicted: images share a
    batch if the network sees them at the same size.

    Args:
        model: a checkpoint of this project's training or an exported file, which know their
            config; or a config, as a path or the name of a packaged one, followed by `checkpoint`.
        checkpoint: the checkpoint or exported file, if `model` is a config.
        batch_size: the largest number of images that the network sees at once.
        device: where it runs, e.g. 'cpu' (default: a GPU where there is one).
        fuse: fold BN layers and gates into the convolutions: same results, faster.
        options: overrides of the config, by dotted key or as 'KEY=VALUE' strings, e.g.
            ['model.test_cfg.score_thr=0.01'].
        mini: as in training; a checkpoint of this project knows it.
        from_scratch: as in training; a checkpoint of this project knows it.

    Attributes:
        classes: class names by label.

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
        fuse: bool = True,
        options: Mapping[str, Any] | Sequence[str] = (),
        mini: bool = False,
        from_scratch: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f'batch_size must be at least 1, got {batch_size}')
        self.batch_size = batch_size
        config: str | None = str(model)
        if checkpoint is None:
            config, checkpoint = None, model
            if not is_model_file(str(model)) and not Path(model).is_file():
                raise UserError(
                    f'{model} not found: pass a checkpoint, or a config followed by its checkpoint'
                )
        asked = RunSpec.asked(
            config,
            mini=mini,
            from_scratch=from_scratch,
            options=options if isinstance(options, Mapping) else parse_options(options),
        )
        self.network = Network(
            prepare(config, asked, ckpt.load(checkpoint), draw=False), device, fuse
        )
        self.classes = self.network.classes

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

    def stream(self, images: Iterable[tuple[Key, ImageLike]]) -> Iterator[tuple[Key, Prediction]]:
        """Predict pairs (key, image), yielding pairs (key, prediction) as they get ready.

        Few images are held at a time, however many there are; pairs may come in another order.
        """
        waiting: dict[Hashable, list[tuple[Key, np.ndarray, Any]]] = defaultdict(list)
        for key, image in images:
            array = _array(image)
            kind, sample = self.network.preprocess(array)
            waiting[kind].append((key, array, sample))
            fullest = max(waiting, key=lambda kind: len(waiting[kind]))
            if (
                len(waiting[fullest]) == self.batch_size
                or sum(map(len, waiting.values())) == 4 * self.batch_size
            ):
                yield from self._run(waiting.pop(fullest))
        for batch in waiting.values():
            yield from self._run(batch)

    def _run(self, batch: list[tuple[Key, np.ndarray, Any]]) -> Iterator[tuple[Key, Prediction]]:
        keys, images, samples = zip(*batch)
        yield from zip(keys, self.network.predict(images, samples))


def _array(image: ImageLike) -> np.ndarray:
    if isinstance(image, Image.Image):
        return as_rgb(image)
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(
            f'an image as an array is H W 3, uint8, RGB; got {image.dtype} of shape '
            f'{image.shape}: convert others with PIL.Image.fromarray'
        )
    return image


class Network:
    """The network behind a `Predictor`: a checkpoint's, run by mmdet or mmseg, or an exported one.

    Args:
        prepared: config and checkpoint.
        device: see `Predictor`.
        fuse: see `Predictor`.

    Attributes:
        name: of the config, e.g. retinanet_effvim_m4.
        segments: whether it gives label maps, as segmentors do, instead of objects.
        classes: class names by label.

    Raises:
        UserError: the checkpoint does not fit the config.
    """

    def __init__(self, prepared: PreparedRun, device: str | None, fuse: bool) -> None:
        cfg, checkpoint = prepared.cfg, prepared.checkpoint
        assert checkpoint
        cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
        import_plugins(cfg)

        from effvim.inference.exported_model import EffViMExportedModel
        from effvim.inference.folding import fuse as fold

        self.name = Path(prepared.spec.config).stem
        self.segments = is_segmentor(cfg)
        scope = 'mmseg' if self.segments else 'mmdet'
        registry = importlib.import_module(f'{scope}.registry')
        with DefaultScope.overwrite_default_scope(scope), quiet():
            self.classes = tuple(prepared.spec.classes) or _dataset_classes(cfg, registry)
            set_classes(cfg, self.classes)
            network: Any
            if checkpoint.export:
                network, fuse = EffViMExportedModel(checkpoint.path), False
            else:
                network = revert_sync_batchnorm(registry.MODELS.build(cfg.model))
                network.load_state_dict(
                    fit_state_dict(network, checkpoint.content['state_dict'], checkpoint.path)
                )
            pipeline = cfg.test_dataloader.dataset.pipeline
            self.grey = pipeline[0].get('color_type') == 'grayscale'
            self.pipeline = Compose(_without_files(pipeline))
        target = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        network = network.to(target).eval()
        if fuse:
            network = fold(network)
        if target.type == 'cpu':  # its convolutions are faster so
            network = network.to(memory_format=torch.channels_last)
        self.model = network

    def preprocess(self, image: np.ndarray) -> tuple[Hashable, Any]:
        """A sample for `predict`, and its kind: samples of one kind may share a batch."""
        bgr = np.ascontiguousarray(image[..., ::-1])  # as mmcv's images are
        if self.grey:
            bgr = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        sample = self.pipeline(dict(img=bgr, img_id=0))
        return (tuple(sample['inputs'].shape), image.shape), sample

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray], samples: Sequence[Any]) -> list[Prediction]:
        """Predict `images`, whose samples `preprocess` made."""
        results = self.model.test_step(
            {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}
        )
        return [self._prediction(image, result) for image, result in zip(images, results)]

    def _prediction(self, image: np.ndarray, result: Any) -> Prediction:
        if 'pred_sem_seg' in result:
            labels = result.pred_sem_seg.data[0].cpu().numpy()
            return Prediction(image, self.classes, label_map=labels)
        instances = result.pred_instances.cpu().numpy()
        return Prediction(
            image,
            self.classes,
            instances.bboxes,
            instances.scores,
            instances.labels,
            instances.get('masks'),
        )


def _dataset_classes(cfg: Config, registry: Any) -> tuple[str, ...]:
    """The classes of the test dataset, for checkpoints that do not name theirs."""
    dataset = cfg.test_dataloader.dataset
    own = (dataset.get('metainfo') or {}).get('classes')
    return tuple(own or registry.DATASETS.get(dataset.type).METAINFO['classes'])


def _without_files(pipeline: Sequence[Any]) -> list[Any]:
    """A test pipeline that starts from an image in memory, without annotations."""
    first, *rest = (step for step in pipeline if step.type != 'LoadAnnotations')
    return [{**first, 'type': 'LoadImageFromNDArray'}, *rest]
