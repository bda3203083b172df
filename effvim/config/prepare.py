"""What a run is, from its command line or from the checkpoint that it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim.config import presets
from effvim.config.editing import apply_options, set_classes, set_data_root
from effvim.config.structure import is_segmentor
from effvim.datasets import (
    ade,
    coco,
)
from effvim.datasets.collection import garbage_collection_paused


def work_directory(cfg: Config, path: str, given: str | None, overlays: Sequence[str]) -> Path:
    """The folder for results: the flag's, the config's, or one named after the config."""
    name = '-'.join([Path(path).stem, *(o for o in overlays if o == 'mini')])
    return Path(given or cfg.get('work_dir') or Path('work_dirs') / name)


def apply_spec(cfg: Config, about: Mapping[str, Any], draw: bool = True) -> None:
    """Make `cfg` the config of the run that `about` describes.

    draw: see that the embedded data set is on disk, if the run is on it.
    """
    presets.apply_presets(cfg, about['overlays'], draw)
    if about['data_root']:
        set_data_root(cfg, about['data_root'])
    cfg.merge_from_dict(dict(about['fitted']))
    apply_options(cfg, about['options'])
    if 'test_pipeline' in cfg:  # mmseg's inference_model reads the variable
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline


def check_data(cfg: Config, about: dict[str, Any], loaders: Sequence[Any]) -> None:
    """Check the data on disk and settle the classes, in `cfg` and `about`.

    Raises:
        UserError: as `check_all` of `ade` or `coco`, or the data has other classes than the
            checkpoint.
    """
    with garbage_collection_paused():
        classes = (ade if is_segmentor(cfg) else coco).check_all(loaders)
    trained = tuple(about.get('classes') or ())
    if trained and trained != classes:
        raise UserError(
            f'the checkpoint was trained for {len(trained)} classes ('
            f'{", ".join(trained[:5])}…), the data has {len(classes)} ('
            f'{", ".join(classes[:5])}…): use data of the same classes; to fine-tune '
            f'on others start a new run with --cfg-options load_from=CHECKPOINT'
        )
    about['classes'] = list(classes)
    set_classes(cfg, classes)
