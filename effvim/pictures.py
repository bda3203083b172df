"""Pictures of any kind as 8-bit RGB, upright: the one way in for inference and the page."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from backbone.errors import UserError

# What a folder is searched for; a file that is named is read whatever its name is.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def read(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    formats: tuple[str, ...] | None = None,
    max_megapixels: float = math.inf,
) -> np.ndarray:
    """The picture in a file, H W 3, uint8, RGB, see `as_rgb`; of several frames the first.

    formats: those of Pillow that may decode it, by default all.

    Raises:
        UserError: absent, cut short, damaged, too large, or not a picture; names the file.
    """
    name = getattr(source, 'name', 'the picture') if hasattr(source, 'read') else source
    try:
        with warnings.catch_warnings(), Image.open(source, formats=formats) as image:
            warnings.simplefilter('ignore')  # of odd metadata; half of the size limit
            if image.width * image.height > 1e6 * max_megapixels:
                raise UserError(f'{image.width} × {image.height} pixels are too many, make it '
                                f'smaller: at most {max_megapixels:g} megapixels are taken')
            image.load()
            return as_rgb(image)
    except UserError as error:
        raise UserError(f'{name}: {error}') from error
    except Exception as error:  # decoders raise what they like over foreign bytes
        empty = not hasattr(source, 'read') and Path(source).is_file() and (
            Path(source).stat().st_size == 0)
        why = 'the file is empty' if empty else getattr(error, 'strerror', None) or error
        raise UserError(f'{name} cannot be read as a picture: {why}') from error


def as_rgb(image: Image.Image) -> np.ndarray:
    """`image`, H W 3, uint8, RGB, turned as its EXIF orientation says.

    What is transparent shows white. 16-bit values are scaled to 8 bits, 65535 to 255. CMYK is
    converted by its plain formula; colour profiles are not applied.

    Raises:
        UserError: values of more than 16 bits, whose range nobody knows.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16') or image.mode in ('I', 'F'):
        values = np.asarray(image)
        if image.mode == 'F' or values.min() < 0 or values.max() > 65535:
            raise UserError(f'pixels of mode {image.mode} have no range of their own: convert '
                            f'the picture to 8 or 16 bits')
        return np.repeat(np.rint(values[..., None] / 257).astype(np.uint8), 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))
