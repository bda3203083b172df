"""Pictures with what is in them drawn in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools import mask as rle

from effvim.files import new_directory
from effvim.formats.dataset import DataSet, Picture, pixels
from effvim.images import read_image


def browse(data: DataSet, target: Path, limit: int, seed: int) -> int:
    """Draw up to `limit` pictures of each part into a new folder; returns how many.

    Raises:
        UserError: the folder exists, or a picture cannot be read.
    """
    drawn = 0
    with new_directory(target) as folder:
        for part, pictures in data.parts.items():
            chosen = random.Random(seed).sample(pictures, min(limit, len(pictures)))
            for picture in chosen:
                path = folder / part / f'{picture.name.rpartition(".")[0]}.png'
                if path.exists():  # a.jpg beside a.png
                    path = folder / part / f'{picture.name}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(picture, data.classes)).save(path)
                drawn += 1
    return drawn


def draw(picture: Picture, classes: Sequence[str]) -> np.ndarray:
    """The picture with its boxes, outlines and their classes, or with its mask, H W 3."""
    things = [t for t in picture.things if not t.crowd]
    found = sv.Detections(
        np.array([t.box for t in things], np.float32).reshape(-1, 4),
        class_id=np.array([t.label for t in things], int),
    )
    scene = read_image(picture.path)
    if picture.mask:
        labels = np.asarray(Image.open(picture.mask))
        found.mask = np.array([labels == t.label for t in things]).reshape(-1, *labels.shape)
    elif any(t.outline for t in things):
        found.mask = np.array(
            [
                rle.decode(pixels(t.outline, picture.width, picture.height))
                if t.outline
                else np.zeros(scene.shape[:2])
                for t in things
            ],
            bool,
        )
    # annotators draw in place; thickness and text grow with the picture
    if found.mask is not None:
        scene = sv.MaskAnnotator().annotate(scene, found)
    size = (picture.width, picture.height)
    if not picture.mask:
        scene = sv.BoxAnnotator(thickness=sv.calculate_optimal_line_thickness(size)).annotate(
            scene, found
        )
    return sv.RichLabelAnnotator(  # any script, the plain one draws ASCII alone
        font_size=max(10, min(size) // 40),
        smart_position=True,
        text_position=sv.Position.CENTER_OF_MASS if picture.mask else sv.Position.TOP_LEFT,
    ).annotate(scene, found, labels=[classes[t.label] for t in things])
