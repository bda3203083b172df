"""`tools/demo.py`: a web page on which people drop a picture and see what is found in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError

if TYPE_CHECKING:
    pass


MAX_EXAMPLES = 12

NUM_SCENES = 6  # drawn, where no folder with examples is given


def collect_examples(given: str | None, folder: Path, segments: bool) -> list[Path]:
    """Pictures to offer, put below `folder`: copies of those in `given`, or drawn ones.

    Raises:
        UserError: there is none in `given`.
    """
    from effvim.images import IMAGE_SUFFIXES

    folder = folder / 'examples'
    folder.mkdir()
    if given is None:
        return draw_examples(folder, segments)
    there = Path(given).iterdir() if Path(given).is_dir() else ()
    found = sorted(p for p in there if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UserError(
            f'--examples {given}: no such folder, or no picture in it ({", ".join(IMAGE_SUFFIXES)})'
        )
    return [Path(shutil.copy(path, folder)) for path in found[:MAX_EXAMPLES]]


def draw_examples(folder: Path, segments: bool) -> list[Path]:
    """Scenes like those of the embedded data set, but in neither of its splits."""
    import numpy as np
    from PIL import Image, ImageOps

    from effvim.datasets.scenes import REGIONS, THINGS, draw_scene

    paths = [folder / f'scene_{i}.png' for i in range(1, NUM_SCENES + 1)]
    for i, path in enumerate(paths):
        rng = np.random.RandomState([0, 2, i])
        scene = draw_scene(rng, style=REGIONS if segments else THINGS)
        # enlarged, so that what is drawn into it is legible
        ImageOps.scale(Image.fromarray(scene.image), 4).save(path)
    return paths
