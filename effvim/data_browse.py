"""Pictures with their boxes drawn in."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

from . import pictures as reading
from .data_set import DataSet, fresh


def browse(data: DataSet, target: Path, limit: int, seed: int) -> int:
    """Draw up to `limit` pictures of each part into a new folder; returns how many.

    Raises:
        UserError: the folder exists, or a picture cannot be read.
    """
    drawn = 0
    with fresh(target) as folder:
        for part, pictures in data.parts.items():
            chosen = random.Random(seed).sample(pictures, min(limit, len(pictures)))
            for picture in chosen:
                things = [t for t in picture.things if not t.crowd]
                found = sv.Detections(
                    np.array([t.box for t in things], np.float32).reshape(-1, 4),
                    class_id=np.array([t.label for t in things], int))
                # annotators draw in place; thickness and text grow with the picture
                scene = reading.read(picture.path)
                size = (picture.width, picture.height)
                scene = sv.BoxAnnotator(
                    thickness=sv.calculate_optimal_line_thickness(size)).annotate(scene, found)
                scene = sv.RichLabelAnnotator(  # any script, the plain one draws ASCII alone
                    font_size=max(10, min(size) // 40)).annotate(
                    scene, found, labels=[data.classes[t.label] for t in things])
                path = folder / part / f'{picture.name.rpartition(".")[0]}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scene).save(path)
                drawn += 1
    return drawn
