"""The networks that PyTorch runs, and exported files whose images a config prepares."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.image import rescale_size
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints.matching import fit_state_dict
from effvim.config.editing import set_classes
from effvim.config.prepare import prepare
from effvim.config.reading import import_plugins
from effvim.config.run_spec import RunSpec
from effvim.config.runtime import RuntimeChoices
from effvim.config.structure import from_memory, is_segmentor, loads_grey
from effvim.console import quiet
from effvim.inference.network_output import NetworkOutput
from effvim.inference.tiles import nms_threshold


class Network:
    """The network behind a `Predictor`, with the config that prepares its images.

    It is a checkpoint's, run by mmdet or mmseg, or an exported one.

    Args:
        config: path or name of a config; None for the checkpoint's own.
        checkpoint: path of a checkpoint or an exported file.
        asked: what the user asks for.
        where: the device of PyTorch, see `Predictor`; of an exported file how to run it.
        fuse: see `Predictor`.

    Attributes:
        name: of the config, e.g. retinanet_effvim_m4.
        segments: whether it gives label maps, as segmentors do, instead of objects.
        classes: class names by label.
        nms_iou: see `tiles.nms_threshold`.
        in_flight: how many images are worth computing at the same time.

    Raises:
        UserError: a file is absent or corrupt, or config and checkpoint do not fit.
    """

    def __init__(
        self,
        config: str | None,
        checkpoint: str,
        asked: RunSpec,
        where: str | RuntimeChoices | None,
        fuse: bool,
    ) -> None:
        loaded = ckpt.load(checkpoint)
        prepared = prepare(config, asked, loaded, draw=False)
        cfg = prepared.cfg
        cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
        import_plugins(cfg, models=not isinstance(where, RuntimeChoices))

        from effvim.inference.exported_model import EffViMExportedModel

        self.name = Path(prepared.spec.config).stem
        self.segments = is_segmentor(cfg)
        self.nms_iou = nms_threshold(cfg.model)
        scope = 'mmseg' if self.segments else 'mmdet'
        registry = importlib.import_module(f'{scope}.registry')
        with DefaultScope.overwrite_default_scope(scope), quiet():
            self.classes = tuple(prepared.spec.classes) or _dataset_classes(cfg, registry)
            set_classes(cfg, self.classes)
            if isinstance(where, RuntimeChoices):
                self.model: Any = EffViMExportedModel(checkpoint, **vars(where))
            else:
                network = revert_sync_batchnorm(registry.MODELS.build(cfg.model))
                network.load_state_dict(
                    fit_state_dict(network, loaded.content['state_dict'], checkpoint)
                )
                self.model = _ready(network, where, fuse)
            pipeline = cfg.test_dataloader.dataset.pipeline
            self.grey = loads_grey(pipeline)
            self.pipeline = Compose(from_memory(pipeline))
        self.in_flight = getattr(self.model, 'in_flight', 1)

    def accepts(self, height: int, width: int) -> bool:
        """Whether an image of this size keeps at least one pixel along each axis when resized."""
        return all(
            min(rescale_size((width, height), transform.scale)) >= 1
            for transform in self.pipeline.transforms
            if getattr(transform, 'keep_ratio', False) and getattr(transform, 'scale', None)
        )

    def preprocess(self, image: np.ndarray) -> tuple[Hashable, Any]:
        """A sample for `predict`, and its kind: samples of one kind may share a batch."""
        bgr = np.ascontiguousarray(image[..., ::-1])  # as mmcv's images are
        if self.grey:
            bgr = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        sample = self.pipeline(dict(img=bgr, img_id=0))
        return (tuple(sample['inputs'].shape), image.shape), sample

    @torch.no_grad()
    def start(self, samples: Sequence[Any]) -> Callable[[], Sequence[NetworkOutput]]:
        """Begin to compute what `preprocess` made; returns what waits for the outputs."""
        inputs, data = ([sample[key] for sample in samples] for key in ('inputs', 'data_samples'))
        if hasattr(self.model, 'collect'):  # an exported file, which computes on its own threads
            jobs = [self.model.start(x) for x in inputs]
            return lambda: [NetworkOutput.of(result) for result in self.model.collect(jobs, data)]
        results = self.model.test_step({'inputs': inputs, 'data_samples': data})
        return lambda: [NetworkOutput.of(result) for result in results]


def _ready(network: Any, device: str | None, fuse: bool) -> Any:
    """A network on its device, for inference."""
    from effvim.inference.folding import fuse as fold

    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        target = torch.device(device)
        network = network.to(target).eval()
    except (RuntimeError, AssertionError) as error:  # unknown, not built in, or no such GPU
        reason = str(error).partition('\n')[0]
        raise UserError(f'device={device!r}: {reason}') from error
    if fuse:
        network = fold(network)
    if target.type == 'cpu':  # its convolutions are faster so
        network = network.to(memory_format=torch.channels_last)
    return network


def _dataset_classes(cfg: Config, registry: Any) -> tuple[str, ...]:
    """The classes of the test dataset, for checkpoints that do not name theirs."""
    dataset = cfg.test_dataloader.dataset
    own = (dataset.get('metainfo') or {}).get('classes')
    return tuple(own or registry.DATASETS.get(dataset.type).METAINFO['classes'])
