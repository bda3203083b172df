"""Pictures on disk: decoded to the end, by the decoder that training uses. Needs no mm* module."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def check_end(path: Path) -> None:
    """Raise if a JPEG stops early, which OpenCV would fill with grey and pass on."""
    if path.suffix.lower() not in ('.jpg', '.jpeg'):
        return
    with path.open('rb') as file:
        file.seek(-2, io.SEEK_END)
        if file.read() == b'\xff\xd9':
            return
    with Image.open(path) as image:  # something after the end mark is allowed: look closer
        image.load()


def examine(path: Path) -> tuple[tuple[int, int], bytes]:
    """Width and height as loaded for training, that is upright, and a hash of the file.

    Raises:
        Exception: whatever decoders raise over foreign bytes; it cannot be decoded, or stops early.
    """
    content = path.read_bytes()
    Image.open(io.BytesIO(content)).close()  # refuses a header that asks for absurd memory
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError('OpenCV cannot decode it')
    check_end(path)
    height, width = pixels.shape[:2]
    return (width, height), hashlib.blake2b(content, digest_size=16).digest()
