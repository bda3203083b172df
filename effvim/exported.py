"""An ONNX file of `tools/export.py` in the place of the model that it was made from."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from backbone.errors import UserError

from .export_model import Prepare, preparation

INSTALL = 'pip install onnx onnxruntime onnxscript'


def open_session(source: str | bytes, name: str) -> Any:
    """An onnxruntime session of a file or its content, on as many threads as torch has.

    Raises:
        UserError: onnxruntime is not installed, or the file is absent or not what it can run.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError(f'ONNX files need onnxruntime: {INSTALL}') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # of many types, over foreign bytes
        raise UserError(f'{name} cannot be read as an ONNX file: {error}') from error


def description(session: Any, name: str) -> dict[str, Any]:
    """What `tools/export.py` wrote about a file: see `export_file.metadata`.

    Raises:
        UserError: it did not write this one.
    """
    found = session.get_modelmeta().custom_metadata_map
    if 'effvim' not in found:
        raise UserError(f'{name} was not written by tools/export.py: it does not say what it is')
    return {key: json.loads(value) for key, value in found.items()}


def content(path: str) -> dict[str, Any]:
    """The description of a file in the form of a checkpoint's content, `export` beside it.

    Raises:
        UserError: as `open_session` and `description`; it holds a backbone alone.
    """
    about = description(open_session(path, path), path)
    if about['kind'] == 'Backbone':
        raise UserError(f'{path} holds a backbone alone, which finds nothing: export without '
                        f'--backbone-only')
    run = {**about['effvim'], 'classes': about['classes']}
    run['options'] = {key: ast.literal_eval(value) for key, value in run['options'].items()}
    meta = {'effvim': run, 'dataset_meta': {'classes': about['classes']}}
    return {'state_dict': {}, 'meta': meta, 'export': about}


def settings(cfg: Config) -> dict[str, Any]:
    """What an exported file holds of a config and cannot change any more, by dotted key."""
    model = cfg.model
    found: dict[str, Any] = {
        'model.type': model.type,
        'model.backbone.type': model.backbone.type,
        'model.backbone.arch': model.backbone.get('arch', 'm4'),
        'model.data_preprocessor': preparation(model.data_preprocessor),
    }

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                collect(value, f'{prefix}.{key}')
            else:
                found[f'{prefix}.{key}'] = value

    collect(model.test_cfg, 'model.test_cfg')
    return json.loads(json.dumps(found))  # tuples as the file gives them


def check_config(cfg: Config, about: Mapping[str, Any], path: str) -> None:
    """See that a config says what the file does.

    Raises:
        UserError: it does not; names the first key that differs.
    """
    own = settings(cfg)
    for key in {**about['settings'], **own}:
        if own.get(key) != about['settings'].get(key):
            raise UserError(f'the config says {key}={own.get(key)!r}, {path} was exported with '
                            f'{about["settings"].get(key)!r}: use the config that it was made '
                            f'from, or export again')


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A file in the place of its model, for `test_step`; picture by picture, as they come.

    A picture smaller than a file of a fixed size is padded at the right and the bottom.

    Args:
        source: the file or its content.
    """

    def __init__(self, source: str | bytes) -> None:
        super().__init__()
        name = source if isinstance(source, str) else 'the exported file'
        self.session = open_session(source, name)
        self.about = description(self.session, name)

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """All outputs, by name, for one picture, 3 H W, 0 to 255 as OpenCV reads it."""
        x, size = image[None], self.about['size']
        if self.about['input'] == 'normalised':
            x = Prepare(**self.about['settings']['model.data_preprocessor'])(x)
        if size and list(x.shape[2:]) != size:
            x = self.padded(x, size)
        names = [output.name for output in self.session.get_outputs()]
        found = self.session.run(names, {'images': np.ascontiguousarray(x.numpy())})
        return {name: torch.from_numpy(value)[0] for name, value in zip(names, found)}

    def padded(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """A picture of a fixed size, what is added being what the network sees as 0.

        Raises:
            UserError: it is larger.
        """
        (height, width), (full_height, full_width) = x.shape[2:], size
        if height > full_height or width > full_width:
            raise UserError(
                f'a picture of {height} × {width} pixels, as the config resizes it, does not fit '
                f'into the file\'s {full_height} × {full_width}: set the scale of the Resize in '
                f'test_dataloader.dataset.pipeline, or export without --size')
        given = self.about['settings']['model.data_preprocessor']
        mean = given['mean'][::-1] if given['reverse'] else given['mean']
        fill = torch.tensor(mean).round() if x.dtype == torch.uint8 else torch.zeros(3)
        canvas = fill.to(x.dtype).view(1, 3, 1, 1).repeat(1, 1, *size)
        canvas[:, :, :height, :width] = x
        return canvas

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Results into each of the data samples, in pixels of the original pictures."""
        for image, sample in zip(inputs, data_samples):
            found = self.run(image)
            if 'label_map' in found:
                sample.pred_sem_seg = PixelData(data=label_map(found['label_map'], sample))
            else:
                sample.pred_instances = instances(found, sample, self.about['settings'])
        return data_samples

    def test_step(self, data: Any) -> Any:
        """As of mmdet's and mmseg's models."""
        return self(**data)


def label_map(labels: Tensor, sample: Any) -> Tensor:
    """Labels at the size of the original picture, those of the nearest pixels.

    Shape: H W → 1 H' W'.
    """
    height, width = sample.img_shape[:2]
    labels = labels[None, None, :height, :width].float()
    return F.interpolate(labels, sample.ori_shape[:2], mode='nearest-exact')[0].long()


def instances(
    found: Mapping[str, Tensor], sample: Any, settings: Mapping[str, Any]
) -> InstanceData:
    """Boxes and masks of the original picture, as mmdet's models give them."""
    count = int(found['count'])
    height, width = sample.img_shape[:2]
    scale = torch.tensor(sample.get('scale_factor', (1, 1))).repeat(2)  # x y x y
    boxes = found['boxes'][:count].minimum(torch.tensor([width, height] * 2))  # not in the padding
    result = InstanceData(
        bboxes=boxes / scale, scores=found['scores'][:count], labels=found['labels'][:count])
    if 'masks' in found:
        result.masks = paste(found['masks'][:count], result.bboxes, sample.ori_shape[:2],
                             settings['model.test_cfg.rcnn.mask_thr_binary'])
    return result


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """Masks of a whole picture. Shape: masks K 28 28, boxes K 4 → K H W, bool."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i in range(len(masks)):  # mmdet's way on a CPU
        part, place = _do_paste_mask(masks[i:i + 1, None], boxes[i:i + 1], *size)
        pasted[(i, *place)] = part[0] >= threshold
    return pasted
