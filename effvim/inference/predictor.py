"""Inference: `Predictor(config_or_checkpoint)(image)`."""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints import exported
from effvim.config.editing import parse_options, set_classes
from effvim.config.packaged import config_path
from effvim.config.prepare import apply_spec
from effvim.config.reading import import_plugins, load_config
from effvim.config.run_spec import adopt
from effvim.config.structure import is_segmentor
from effvim.config.validation import check_model
from effvim.config.weights import check_variant
from effvim.console import quiet
from effvim.images import as_rgb, read_image
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.prediction import Prediction

Picture = str | os.PathLike[str] | Image.Image | np.ndarray

Key = TypeVar('Key')


class Predictor:
    """A trained detector or segmentor for pictures of any kind.

    Examples:
        >>> found = Predictor('work_dirs/retinanet_effvim_m4/epoch_12.pth')('street.jpg')
        >>> found.boxes, found.scores, [found.classes[i] for i in found.labels]
        >>> found.draw(score_thr=0.3).save('found.png')

    A picture is a path, a Pillow image, or an array H W 3, uint8, RGB; see `effvim.pictures` for
    what becomes of other kinds. The result does not depend on what else is predicted: pictures
    share a batch if the network sees them at the same size.

    Args:
        model: a checkpoint of our training, whose config lies beside it as training put it there;
            or a config file, or a packaged one's name, followed by the checkpoint.
        checkpoint: the checkpoint, or a file of tools/export.py, if `model` is a config.
        batch_size: pictures that the network sees at once, at most.
        device: where it runs, e.g. 'cpu'; by default a GPU where there is one.
        fuse: fold BN layers and gates into the convolutions: the same results, faster.
        options: changes of the config, as `--cfg-options` takes them, e.g.
            ['model.test_cfg.score_thr=0.01'].
        mini, from_scratch: as the flags of the tools; a checkpoint of our training knows them.

    Attributes:
        classes: names by label.

    Raises:
        UserError: a file is absent or damaged, or config and checkpoint do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 1,
        device: str | None = None,
        fuse: bool = True,
        options: Sequence[str] = (),
        mini: bool = False,
        from_scratch: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f'batch_size must be at least 1, got {batch_size}')
        self.batch_size = batch_size
        flags = Namespace(mini=mini, from_scratch=from_scratch, data_root=None, cfg_options=options)
        self.network = Network(model, checkpoint, flags, device, fuse)
        self.classes = self.network.classes

    @overload
    def __call__(self, images: Picture) -> Prediction: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def __call__(
        self, images: Picture | list[Any] | tuple[Any, ...]
    ) -> Prediction | list[Prediction]:
        """What is in one picture, or in each of several.

        Raises:
            UserError: a picture cannot be read; names it.
        """
        if isinstance(images, (list, tuple)):
            found = dict(self.stream(enumerate(images)))
            return [found[i] for i in range(len(images))]
        return next(self.stream([(0, images)]))[1]

    def stream(self, images: Iterable[tuple[Key, Picture]]) -> Iterator[tuple[Key, Prediction]]:
        """Of pairs (key, picture) the pairs (key, what is in it), as they get done.

        Few pictures are held at a time, however many there are.
        """
        waiting: dict[Hashable, list[tuple[Key, np.ndarray, Any]]] = defaultdict(list)
        for key, image in images:
            picture = _array(image)
            kind, sample = self.network.prepare(picture)
            waiting[kind].append((key, picture, sample))
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


def _array(image: Picture) -> np.ndarray:
    if isinstance(image, Image.Image):
        return as_rgb(image)
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(
            f'a picture as an array is H W 3, uint8, RGB; got {image.dtype} of shape '
            f'{image.shape}: PIL.Image.fromarray makes a picture of others'
        )
    return image


class Network:
    """A checkpoint's network, run by mmdet or mmseg, or an exported one; see `Predictor`."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None,
        flags: Namespace,
        device: str | None,
        fuse: bool,
    ) -> None:
        cfg, content, path = settle(model, checkpoint, flags)
        import_plugins(cfg)

        from effvim.checkpoints.matching import fit_state_dict
        from effvim.inference.folding import fuse as fold

        scope = 'mmseg' if is_segmentor(cfg) else 'mmdet'
        registry = importlib.import_module(f'{scope}.registry')
        with DefaultScope.overwrite_default_scope(scope), quiet():
            self.classes = _classes(cfg, content, registry)
            set_classes(cfg, self.classes)
            network: Any
            if 'export' in content:
                network, fuse = EffViMExportedModel(path), False
            else:
                network = revert_sync_batchnorm(registry.MODELS.build(cfg.model))
                network.load_state_dict(fit_state_dict(network, content['state_dict'], path))
            self.pipeline = Compose(_without_files(cfg.test_dataloader.dataset.pipeline))
        target = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        network = network.to(target).eval()
        if fuse:
            network = fold(network)
        if target.type == 'cpu':  # its convolutions are faster so
            network = network.to(memory_format=torch.channels_last)
        self.model = network

    def prepare(self, picture: np.ndarray) -> tuple[Hashable, Any]:
        """A sample for `predict`, and its kind: samples of one kind may share a batch."""
        # mmcv's pictures are BGR
        sample = self.pipeline(dict(img=np.ascontiguousarray(picture[..., ::-1]), img_id=0))
        return (tuple(sample['inputs'].shape), picture.shape), sample

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray], samples: Sequence[Any]) -> list[Prediction]:
        """What is in `images`, whose samples `prepare` made."""
        found = self.model.test_step(
            {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}
        )
        return [self._prediction(image, sample) for image, sample in zip(images, found)]

    def _prediction(self, image: np.ndarray, sample: Any) -> Prediction:
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].cpu().numpy()
            return Prediction(image, self.classes, label_map=labels)
        found = sample.pred_instances.cpu().numpy()
        return Prediction(
            image, self.classes, found.bboxes, found.scores, found.labels, found.get('masks')
        )


def settle(
    model: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None, flags: Namespace
) -> tuple[Config, dict[str, Any], str]:
    """The config as the checkpoint was trained with, its content and path; without mmdet.

    flags: mini, from_scratch, data_root, cfg_options, as the tools have them.

    Raises:
        UserError: absent, damaged, contradicting the flags or one another.
    """
    path = str(checkpoint or model)
    content = (exported.content if path.endswith('.onnx') else ckpt.read)(path)
    if checkpoint is None:
        model = config_beside(path, content)
    cfg = load_config(config_path(str(model)))
    about = adopt(Namespace(config=str(model), **vars(flags)), content, path)
    if checkpoint is None:  # written by training as it ran: nothing is to be applied again
        about.update(overlays=[], data_root=None, options=parse_options(flags.cfg_options))
    apply_spec(cfg, about, draw=False)
    check_model(cfg)
    if 'export' in content:
        exported.check_config(cfg, content['export'], path)
    else:
        check_variant(cfg, content, path)
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    return cfg, content, path


def config_beside(path: str, content: dict[str, Any]) -> Path:
    """The config that training wrote into the folder of its checkpoint.

    Raises:
        UserError: it is not there, or the checkpoint does not name it.
    """
    name = ckpt.describe(content).get('config')
    beside = Path(path).parent / Path(str(name)).name
    if name and beside.is_file():
        return beside
    why = f'{beside} is not there' if name else 'the checkpoint does not say which'
    raise UserError(f'{path} needs its config: {why}; give a config file before the checkpoint')


def _classes(cfg: Config, content: dict[str, Any], registry: Any) -> tuple[str, ...]:
    """Those the checkpoint was trained for; one that does not say has its data set's."""
    dataset = cfg.test_dataloader.dataset
    own = (dataset.get('metainfo') or {}).get('classes')
    return ckpt.classes_of(content) or tuple(
        own or registry.DATASETS.get(dataset.type).METAINFO['classes']
    )


def _without_files(pipeline: Sequence[Any]) -> list[Any]:
    """A test pipeline that starts from a picture in memory and knows no truth."""
    first, *rest = (step for step in pipeline if step.type != 'LoadAnnotations')
    return [{**first, 'type': 'LoadImageFromNDArray'}, *rest]
