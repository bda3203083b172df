"""Example images that the web page offers."""

from __future__ import annotations

import shutil
from pathlib import Path

from backbone.errors import UserError

MAX_EXAMPLES = 12

NUM_SCENES = 6  # synthetic images, if no directory is given


def collect_examples(given: str | None, folder: Path, segments: bool) -> list[Path]:
    """Put example images into `folder`/examples and list them.

    Args:
        given: directory whose first images are copied (default: synthetic images).
        folder: where `examples` is created.
        segments: synthetic images for a segmentor instead of a detector.

    Raises:
        UserError: there is no image in `given`.
    """
    from effvim.images import IMAGE_SUFFIXES, is_hidden

    folder = folder / 'examples'
    folder.mkdir()
    if given is None:
        return draw_examples(folder, segments)
    files = Path(given).iterdir() if Path(given).is_dir() else ()
    images = sorted(
        path
        for path in files
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name) and path.is_file()
    )
    if not images:
        raise UserError(
            f'--examples {given}: no such directory, or no image in it '
            f'({", ".join(IMAGE_SUFFIXES)})'
        )
    return [Path(shutil.copy(path, folder)) for path in images[:MAX_EXAMPLES]]


def draw_examples(folder: Path, segments: bool) -> list[Path]:
    """Draw scenes like those of the synthetic dataset, but in neither of its splits."""
    import numpy as np
    from PIL import Image, ImageOps

    from effvim.datasets.scenes import REGIONS, SMALL_OBJECTS, draw_scene

    paths = [folder / f'scene_{i}.png' for i in range(1, NUM_SCENES + 1)]
    for i, path in enumerate(paths):
        rng = np.random.RandomState([0, 2, i])
        scene = draw_scene(rng, style=REGIONS if segments else SMALL_OBJECTS)
        # enlarged, so that what is drawn into it is legible
        ImageOps.scale(Image.fromarray(scene.image), 4).save(path)
    return paths
