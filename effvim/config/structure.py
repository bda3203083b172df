"""Where things are in a config of mmdet or mmseg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

EVALUATORS = ('val_evaluator', 'test_evaluator')


def value_at(cfg: Config, key: str) -> Any:
    """The value of a dotted key, None where a part of it is absent."""
    node: Any = cfg
    for part in key.split('.'):
        node = node.get(part) if hasattr(node, 'get') else None
    return node


def pad_divisor(cfg: Config) -> int:
    """What the model pads the sides of images to multiples of, 1 where it does not pad."""
    return value_at(cfg, 'model.data_preprocessor.pad_size_divisor') or 1


def dotted_keys(node: Any, prefix: str = '') -> Iterator[str]:
    """Every key below `node` as `--cfg-options` writes it, e.g. train_pipeline.2.scale."""
    if isinstance(node, dict):
        items: Any = node.items()
    elif isinstance(node, list):
        items = [(i, value) for i, value in enumerate(node) if isinstance(value, (dict, list))]
    else:
        return
    for key, value in items:
        yield f'{prefix}{key}'
        yield from dotted_keys(value, f'{prefix}{key}.')


def pipeline_steps(pipeline: Sequence[Any], key: str = '') -> Iterator[tuple[str, Any]]:
    """Every transform of a pipeline and its key below `key`, those inside others included.

    Transforms that choose among others, and hooks that change the pipeline, hold such.
    """
    for i, step in enumerate(pipeline):
        if isinstance(step, list):
            yield from pipeline_steps(step, f'{key}.{i}')
            continue
        yield f'{key}.{i}', step
        for inner in ('transforms', 'switch_pipeline'):
            yield from pipeline_steps(step.get(inner) or (), f'{key}.{i}.{inner}')


def every_step(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Every transform of every pipeline, and its key."""
    for loader in LOADERS:
        yield from pipeline_steps(cfg[loader].dataset.pipeline, f'{loader}.dataset.pipeline')
    for key in ('tta_pipeline', 'custom_hooks'):
        yield from pipeline_steps(cfg.get(key) or (), key)


def kind_of(step: Any) -> str:
    """The type of a transform or model without its scope: Resize for mmdet.Resize."""
    return str(step.type).rpartition('.')[2]


def scope_of(step: Any) -> str:
    """The scope of a transform or model: mmdet for mmdet.Resize, '' without one."""
    return str(step.type).rpartition('.')[0] or step.get('_scope_', '')


def pair(size: Any) -> tuple[int, int]:
    """A size in a pipeline as two numbers; one number stands for both."""
    return (size[0], size[-1]) if isinstance(size, (list, tuple)) else (size, size)


def evaluation_resize(cfg: Config) -> Any:
    """The transform of the validation pipeline that resizes images to a scale.

    Raises:
        UserError: there is none.
    """
    for step in cfg.val_dataloader.dataset.pipeline:
        if kind_of(step) == 'Resize' and 'scale' in step:
            return step
    raise UserError('--data needs a config whose val_dataloader has a step Resize with a scale')


def loads_grey(pipeline: Sequence[Any]) -> bool:
    """Whether a pipeline loads images without colours."""
    return str(pipeline[0].get('color_type')).startswith('grayscale')


def from_memory(pipeline: Sequence[Any]) -> list[Any]:
    """A test pipeline that starts from an image in memory, without annotations."""
    first, *rest = (step for step in pipeline if kind_of(step) != 'LoadAnnotations')
    return [{**first, 'type': 'LoadImageFromNDArray'}, *rest]


def is_segmentor(cfg: Config) -> bool:
    """Whether a config is of mmseg, on ADE20K's layout; else it is of mmdet, on COCO's."""
    return cfg.get('default_scope') == 'mmseg'


def dataset_configs(cfg: Config) -> list[Any]:
    """The dataset configs of the training, validation and test loaders."""
    return [cfg[loader].dataset for loader in LOADERS]


def parts_with_classes(node: Any) -> Iterator[dict[str, Any]]:
    """Every part of a model's config that has a number of classes."""
    if isinstance(node, dict) and 'num_classes' in node:
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            yield from parts_with_classes(value)
