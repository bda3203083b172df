"""The one way from config + checkpoint + choices to something that can run. Needs no mmdet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints import exported
from effvim.config.editing import apply_options, set_classes, set_data_root
from effvim.config.machine import forget_machine
from effvim.config.packaged import config_path
from effvim.config.presets import apply_presets, draw_synthetic_dataset
from effvim.config.reading import load_config
from effvim.config.run_spec import RunSpec
from effvim.config.structure import is_segmentor
from effvim.config.validation import check_model
from effvim.config.weights import check_variant
from effvim.datasets import ade, coco
from effvim.datasets.garbage_collection import garbage_collection_paused


@dataclasses.dataclass
class PreparedRun:
    """A config with everything applied, what the run is, and the checkpoint behind it.

    Attributes:
        cfg: the config; `custom_imports` are not imported yet.
        spec: what the run is; `check_data` settles its classes.
        config: path of the config.
        checkpoint: the file that the run starts from, None without one.
        data_known: whether the dataset's directory is known; exported files do not hold it.
    """

    cfg: Config
    spec: RunSpec
    config: str
    checkpoint: ckpt.LoadedCheckpoint | None = None
    data_known: bool = True

    def work_directory(self, given: str | Path | None = None) -> Path:
        """Where results go: as given, as the config says, or named after the config."""
        return work_directory(self.cfg, self.config, given, self.spec.presets)


def prepare(
    config: str | None,
    asked: RunSpec,
    checkpoint: ckpt.LoadedCheckpoint | None = None,
    *,
    draw: bool = True,
    check: Callable[[Config], None] | None = None,
) -> PreparedRun:
    """Read a config and make it that of the run that a checkpoint and the user's choices describe.

    Args:
        config: path of the config or name of a packaged one; None for the one that the checkpoint
            was trained with: the copy that training wrote next to it, else the packaged config of
            that name.
        asked: the user's choices.
        checkpoint: the file that the run starts from: it knows how it was trained.
        draw: create the synthetic dataset on disk if the run uses it and it is not there.
        check: further checks of the config, before the checkpoint is compared with it.

    Raises:
        UserError: the config is absent or malformed, or config, checkpoint and choices contradict
            each other.
    """
    beside = False  # a config next to the checkpoint
    if config is None:
        assert checkpoint, 'a config or a checkpoint is needed'
        config, beside = _config_of(checkpoint)
    config = config_path(config)
    cfg = load_config(config)
    spec, data_known = asked, True
    if checkpoint:
        spec = asked.adopt(ckpt.describe(checkpoint.content), checkpoint.seed, checkpoint.path)
        spec.classes = spec.classes or list(ckpt.classes_of(checkpoint.content))
    if not spec.config:
        spec.config = Path(config).name
    if beside and checkpoint and is_copy(cfg):  # written by training with everything applied
        forget_machine(cfg)
        cfg.work_dir = str(Path(checkpoint.path).parent)  # it may have been moved
        if draw and 'mini' in spec.presets:
            draw_synthetic_dataset(cfg)
        if asked.data_root:
            set_data_root(cfg, asked.data_root)
        if checkpoint.export:
            apply_options(cfg, exported.own_options(checkpoint.export, spec.options))
        apply_options(cfg, asked.options)
    else:
        apply_spec(cfg, spec, draw)
        data_known = bool(asked.data_root) or not (
            checkpoint and checkpoint.export and checkpoint.export.get('own_data')
        )
    check_model(cfg)
    if check:
        check(cfg)
    if checkpoint and checkpoint.export:
        exported.check_config(cfg, checkpoint.export, checkpoint.path)
    elif checkpoint:
        check_variant(cfg, checkpoint.content, checkpoint.path)
    return PreparedRun(cfg, spec, config, checkpoint, data_known)


def is_copy(cfg: Config) -> bool:
    """Whether training wrote a config; another file may have the same name."""
    hooks = cfg.get('custom_hooks') or []
    return any(hook.get('type') == 'EffViMResumeHook' for hook in hooks)


def _config_of(checkpoint: ckpt.LoadedCheckpoint) -> tuple[str, bool]:
    """The config of a checkpoint, and whether it lies next to the checkpoint."""
    name = Path(str(ckpt.describe(checkpoint.content).get('config') or '')).name
    if not name:
        raise UserError(
            f'{checkpoint.path} does not say which config it was trained with: pass the config '
            f'before it'
        )
    copy = Path(checkpoint.path).parent / name
    if copy.is_file():
        return str(copy), True
    for folder in ('', 'gallery/'):
        packaged = config_path(folder + name.removesuffix('.py'))
        if Path(packaged).is_file():
            return packaged, False
    raise UserError(
        f'{checkpoint.path} was trained with {name}, which is neither next to it nor a packaged '
        f'config: pass the config before it'
    )


def apply_spec(cfg: Config, spec: RunSpec, draw: bool = True) -> None:
    """Make `cfg` the config of the run that `spec` describes.

    Args:
        cfg: changed in place.
        spec: see `RunSpec`.
        draw: as in `prepare`.

    Raises:
        UserError: an option names a key that the config does not have, or the spec is of a run of
            another config.
    """
    apply_presets(cfg, spec.presets, draw)
    if spec.data_root:
        set_data_root(cfg, spec.data_root)
    try:
        cfg.merge_from_dict(dict(spec.fitted))
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UserError(
            f'what --data fitted does not fit this config, the run was trained with {spec.config}: '
            f'pass that config, or none ({error})'
        ) from error
    apply_options(cfg, spec.options)
    cfg.merge_from_dict(dict(spec.batch))
    if 'test_pipeline' in cfg:  # mmseg's inference_model reads the variable
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline


def work_directory(
    cfg: Config, config: str, given: str | Path | None, presets: Sequence[str]
) -> Path:
    """Where results go: as given, as the config says, or named after the config."""
    name = '-'.join([Path(config).stem, *(preset for preset in presets if preset == 'mini')])
    return Path(given or cfg.get('work_dir') or Path('work_dirs') / name)


def check_data(
    prepared: PreparedRun,
    loaders: Sequence[str],
    parsed: dict[Path, dict[str, Any]] | None = None,
) -> None:
    """Check the data on disk and settle the classes, in the config and in the spec.

    Args:
        prepared: changed in place.
        loaders: whose datasets to check, e.g. 'test_dataloader'.
        parsed: COCO annotations that the run has read already, see `coco.check`.

    Raises:
        UserError: an annotation file or an image is absent or wrong, or the data has other classes
            than the checkpoint.
    """
    cfg, spec = prepared.cfg, prepared.spec
    if not prepared.data_known:
        raise UserError(
            f'{prepared.checkpoint.path if prepared.checkpoint else "the file"} was trained on '
            f'data of its own, and exported files do not hold where it was: pass --data-root DIR'
        )
    with garbage_collection_paused():
        configs = [cfg[name] for name in loaders]
        segmentor = is_segmentor(cfg)
        classes = ade.check_all(configs) if segmentor else coco.check_all(configs, parsed)
    trained = tuple(spec.classes)
    if trained and trained != classes:
        raise UserError(
            f'the checkpoint was trained for {len(trained)} classes ({", ".join(trained[:5])}…), '
            f'the data has {len(classes)} ({", ".join(classes[:5])}…): use data of the same '
            f'classes; to fine-tune on others start a new run with --cfg-options '
            f'load_from=CHECKPOINT'
        )
    spec.classes = list(classes)
    set_classes(cfg, classes)
