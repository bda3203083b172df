"""Pictures of any kind as 8-bit RGB, upright: the one way in for inference and the page."""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from backbone.errors import UserError

# What a folder is searched for; a file that is named is read whatever its name is.
IMAGE_SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def read_image(
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
                raise UserError(
                    f'{image.width} × {image.height} pixels are too many, make it '
                    f'smaller: at most {max_megapixels:g} megapixels are taken'
                )
            image.load()
            return as_rgb(image)
    except UserError as error:
        raise UserError(f'{name}: {error}') from error
    except Exception as error:  # decoders raise what they like over foreign bytes
        empty = (
            not hasattr(source, 'read')
            and Path(source).is_file()
            and (Path(source).stat().st_size == 0)
        )
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
            raise UserError(
                f'pixels of mode {image.mode} have no range of their own: convert '
                f'the picture to 8 or 16 bits'
            )
        return np.repeat(np.rint(values[..., None] / 257).astype(np.uint8), 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))


def check_jpeg_end(path: Path) -> None:
    """Raise if a JPEG stops early, which OpenCV would fill with grey and pass on."""
    if path.suffix.lower() not in ('.jpg', '.jpeg'):
        return
    with path.open('rb') as file:
        file.seek(-2, io.SEEK_END)
        if file.read() == b'\xff\xd9':
            return
    with Image.open(path) as image:  # something after the end mark is allowed: look closer
        image.load()


def examine_image(path: Path) -> tuple[tuple[int, int], bytes]:
    """Width and height as loaded for training, that is upright, and a hash of the file.

    Raises:
        Exception: whatever decoders raise over foreign bytes; it cannot be decoded, or stops early.
    """
    content = path.read_bytes()
    Image.open(io.BytesIO(content)).close()  # refuses a header that asks for absurd memory
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError('OpenCV cannot decode it')
    check_jpeg_end(path)
    height, width = pixels.shape[:2]
    return (width, height), hashlib.blake2b(content, digest_size=16).digest()
