"""Images from disk as 8-bit RGB, the same for training, evaluation, inference and drawings.

Everything reads with Pillow (`read_image`). Training and evaluation let OpenCV, which is faster,
decode those files of which it makes the same pixels (`opencv_agrees`); what OpenCV would not notice
in them is checked here (`check_jpeg_end`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from backbone.errors import UserError

# The files that count as images in a directory. A file that is named is read whatever its suffix.
IMAGE_SUFFIXES = (
    *('.avif', '.bmp', '.gif', '.j2k', '.jp2', '.jpeg', '.jpg', '.jpx', '.mpo', '.png', '.tif'),
    *('.tiff', '.webp'),
)

ROWS = 2048  # of a large image that are converted at once

# Images that no dataset can be trained on: kinds that are not read, and animations.
UNREAD_SUFFIXES = ('.dcm', '.dng', '.gif', '.heic', '.heif', '.jxl', '.nef', '.psd', '.svg')

TRAINED_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in UNREAD_SUFFIXES)

MACOS_FOLDER = '__MACOSX'  # in archives: a hidden file for each file


def read_image(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    formats: tuple[str, ...] | None = None,
    max_megapixels: float = math.inf,
) -> np.ndarray:
    """Read an image as RGB, upright: H W 3, uint8; of an animation the first frame.

    Args:
        source: a path or an open file; converted as `as_rgb` says.
        formats: names of the Pillow formats that are allowed (default: all).
        max_megapixels: larger images are refused before they are decoded.

    Raises:
        UserError: absent, truncated, damaged, too large, or not an image; names the file.
    """
    name = getattr(source, 'name', 'the image') if hasattr(source, 'read') else source
    try:
        with (
            warnings.catch_warnings(),
            _pillow_reads(max_megapixels),
            Image.open(source, formats=formats) as image,
        ):
            warnings.simplefilter('ignore')  # odd metadata; images above half of Pillow's limit
            if image.width * image.height > 1e6 * max_megapixels:
                raise UserError(
                    f'{image.width} × {image.height} pixels are too many: '
                    f'at most {max_megapixels:g} megapixels are accepted, make it smaller'
                )
            image.load()
            return as_rgb(image)
    except Image.DecompressionBombError as error:  # raised from twice of what it warns at
        own = 2e-6 * (Image.MAX_IMAGE_PIXELS or 0)  # which a larger limit has raised
        limit = own if math.isinf(max_megapixels) else max_megapixels
        tiles = 'predict it in tiles with effvim infer --tile N, or ' * math.isinf(max_megapixels)
        raise UserError(
            f'{name}: more than {limit:.0f} megapixels are not read at once: {tiles}make it smaller'
        ) from error
    except UserError as error:
        raise UserError(f'{name}: {error}') from error
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        why = getattr(error, 'strerror', None) or error
        if not hasattr(source, 'read') and Path(source).is_file() and not os.path.getsize(source):
            why = 'the file is empty'
        raise UserError(f'{name} cannot be read as an image: {why}') from error


def as_rgb(image: Image.Image) -> np.ndarray:
    """Convert an image to RGB, upright as its EXIF orientation says: H W 3, uint8.

    Transparent pixels become white. 16-bit values are scaled to 8 bits (65535 becomes 255). CMYK is
    converted by its plain formula; colour profiles are not applied.

    Raises:
        UserError: values of more than 16 bits, whose range is unknown.
    """
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise a copy for nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16') or image.mode in ('I', 'F'):
        values = np.asarray(image)
        if image.mode == 'F' or values.min() < 0 or values.max() > 65535:
            raise UserError(
                f'pixels of mode {image.mode} have no fixed range: convert it to 8 or 16 bits'
            )
        return np.repeat(np.rint(values[..., None] / 257).astype(np.uint8), 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    if image.height <= ROWS:
        return np.array(image if image.mode == 'RGB' else image.convert('RGB'))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, ROWS):  # whatever Pillow converts, it copies
        rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        pixels[top : top + ROWS] = np.asarray(rows.convert('RGB'))
    return pixels


@contextlib.contextmanager
def _pillow_reads(megapixels: float) -> Iterator[None]:
    """Let Pillow open images of up to so many pixels, if that is finite and above its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and limit < 1e6 * megapixels < math.inf:
        Image.MAX_IMAGE_PIXELS = int(1e6 * megapixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def opencv_agrees(source: str | os.PathLike[str] | BinaryIO) -> bool:
    """Whether OpenCV and `read_image` give the same pixels: upright 8-bit RGB or grey, opaque.

    OpenCV shows the colours that transparency hides, and it scales 16 bits and converts CMYK
    otherwise. Only the header is read.

    Raises:
        Exception: whatever decoders raise on foreign bytes.
    """
    with warnings.catch_warnings(), Image.open(source) as image:
        warnings.simplefilter('ignore')  # odd metadata
        return (
            image.format in ('JPEG', 'PNG', 'BMP')
            and image.mode in ('RGB', 'L')
            and not image.has_transparency_data
            and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            and all(image.mode == _raw_mode(tile) for tile in image.tile or [])
        )


def _raw_mode(tile: Any) -> str:
    """The pixel format in a file, e.g. 'RGB' or 'RGB;16B', of a tile of Pillow's."""
    raw = tile[3] if isinstance(tile[3], str) else tile[3][0]
    return 'RGB' if raw == 'BGR' else raw  # of BMP files


def decode(content: bytes, max_megapixels: float = math.inf) -> np.ndarray:
    """Decode a file's content as training does: H W 3, uint8, BGR; the pixels of `read_image`.

    Args:
        content: of the file.
        max_megapixels: as in `read_image`; if finite, larger images than OpenCV's limit are read.

    Raises:
        Exception: whatever decoders raise on foreign bytes: it cannot be decoded or is truncated.
    """
    if max_megapixels < math.inf or not opencv_agrees(io.BytesIO(content)):
        image = read_image(io.BytesIO(content), max_megapixels=max_megapixels)
        return np.ascontiguousarray(image[..., ::-1])
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError('OpenCV cannot decode it')
    check_jpeg_end(content)
    return pixels


def name_of_drawing(name: str) -> str:
    """The file name of an annotated image: that of the image if it is JPEG or PNG, else a PNG's."""
    return name if name.lower().endswith(('.jpg', '.jpeg', '.png')) else f'{name}.png'


def encode_drawing(image: np.ndarray, name: str) -> bytes:
    """An annotated image, H W 3, uint8, RGB, as a file of this name, see `name_of_drawing`.

    By OpenCV, which writes a PNG in a fifth of Pillow's time, 4 % larger.
    """
    if name.lower().endswith('.png'):
        suffix, options = '.png', []
    else:  # colours of thin lines are kept: one colour a pixel, not one for four
        full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        suffix, options = '.jpg', [cv2.IMWRITE_JPEG_QUALITY, 95, *full_colour]
    encoded, content = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return content.tobytes()


def is_hidden(name: str) -> bool:
    """Whether a file or directory of this name is ignored wherever a directory is searched."""
    return name.startswith('.') or name == MACOS_FOLDER


def find_files(folder: str | Path, suffixes: Sequence[str] | None = IMAGE_SUFFIXES) -> list[Path]:
    """Files below `folder`, sorted, also behind links, without hidden ones.

    Args:
        folder: a directory.
        suffixes: those of the files, in lower case (default: of images); None for all files.

    Raises:
        UserError: it is no directory. OSError: one inside cannot be read.
    """
    if not Path(folder).is_dir():
        raise UserError(f'directory {folder} not found')

    def stop(error: OSError) -> None:
        raise error

    paths, seen = [], set()
    for top, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else [name for name in folders if not is_hidden(name)]
        paths += [
            Path(top, file)
            for file in files
            if real not in seen
            and not is_hidden(file)
            and (suffixes is None or Path(file).suffix.lower() in suffixes)
        ]
        seen.add(real)
    return sorted(paths)


def image_size(path: Path) -> tuple[int, int]:
    """Read width and height of the upright image from the file's header.

    Raises:
        UserError: the header cannot be read.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 or 270 degrees
            return image.size[::-1] if turned else image.size
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        raise UserError(f'image {path} cannot be read: {error}; repair or replace it') from error


def stored_size(path: Path) -> tuple[int, int]:
    """Read width and height as they are stored, before an EXIF orientation turns the image."""
    with Image.open(path) as image:
        return image.size


def examine_image(path: Path) -> tuple[tuple[int, int], bytes]:
    """Decode an image as training does; return its upright width and height, and the file's hash.

    Raises:
        Exception: whatever decoders raise on foreign bytes: it cannot be decoded or is truncated.
    """
    content = path.read_bytes()
    height, width = decode(content).shape[:2]  # Pillow refuses headers that ask for absurd memory
    return (width, height), hashlib.blake2b(content, digest_size=16).digest()


def check_jpeg_end(content: bytes) -> None:
    """Raise if a JPEG is truncated: OpenCV would fill the rest with grey without an error.

    Raises:
        Exception: whatever Pillow raises for the file.
    """
    if not content.startswith(b'\xff\xd8') or content.endswith(b'\xff\xd9'):
        return
    # bytes after the end marker are allowed: decode to find out
    with Image.open(io.BytesIO(content)) as image:
        image.load()
