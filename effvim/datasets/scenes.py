"""Draw the scenes of the synthetic dataset behind ``--mini`` from a random seed.

A scene is a textured background with 1 to 6 objects of three classes. Objects may overlap (later
ones hide earlier ones) and may be cut by the edge of the image. Shape and texture tell the class of
an object (striped discs, smooth triangles, checked crosses); colour does not. Detectors get small
objects, segmentors larger regions, see ``SMALL_OBJECTS`` and ``REGIONS``.

The same seed gives the same bytes on every machine. Therefore this file draws random numbers only
with ``RandomState.random_sample`` and ``.bytes`` (their streams are frozen by NumPy), computes only
with ``+ - * /``, comparisons, ``floor`` and exact integer sums (nothing that a maths library, a
vector unit or a fused multiply-add rounds in its own way), and turns shapes by Pythagorean
triples instead of sines. Whoever changes what is drawn raises ``VERSION`` in
effvim/datasets/synthetic.py; the datasets that users have on disk are then drawn anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effvim.datasets.boxes import box_around

CLASSES = ('disc', 'triangle', 'cross')

_KINDS = (2, 0, 3)  # the texture of each class, see _texture

MAX_OBJECTS = 6

MIN_SIDE, MAX_SIDE = 12, 100  # pixels, sides of an object's box

MIN_VISIBLE = 0.6  # fraction of an object's pixels that must stay visible

MIN_CONTRAST = 160  # |R - R'| + |G - G'| + |B - B'|, an object's mean against what it hides

TRIES = 30  # for each object after the first; a crowded scene stays with fewer

_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25))

_TILTS = ((1, 0, 1), (99, 20, 101), (24, 7, 25), (12, 5, 13))  # 0 to 22.6 degrees


class Style(NamedTuple):
    """What a scene looks like.

    Attributes:
        sides: of objects in pixels, quantiles between which is interpolated.
        arm: half the width of a cross's arms, least and most, as a fraction of half its length.
        repeats: for each class, how often its pattern fits into the object, least and most.
        contrast: of that pattern, see _texture.
        backgrounds: kinds of texture that the background may have, see _texture.
    """

    sides: tuple[int, ...]
    arm: tuple[float, float]
    repeats: tuple[tuple[float, float], ...]
    contrast: int
    backgrounds: tuple[int, ...]


# Half of them between 26 and 47 pixels, on a background that may have their texture: the shape
# tells them apart.
SMALL_OBJECTS = Style(
    sides=(12, 18, 22, 26, 29, 32, 36, 40, 44, 49, 58, 74, 104),
    arm=(0.22, 0.34),
    repeats=((2.5, 4),) * 3,
    contrast=45,
    backgrounds=(0, 1, 2, 3),
)

# Regions of an image, whose textures tell what they are; a segmentor's feature maps, of stride 16,
# resolve no small objects.
REGIONS = Style(
    sides=(40, 50, 60, 70, 80, 90, 100),
    arm=(0.34, 0.42),
    repeats=((10, 13), (9, 13), (4, 5)),
    contrast=120,
    backgrounds=(1,),
)


class Scene(NamedTuple):
    """An image and its objects.

    Attributes:
        image: H W 3, uint8, RGB.
        labels: N indices into CLASSES, from the rearmost object to the foremost.
        masks: N H W, bool, the visible pixels of each object; no pixel belongs to two.
    """

    image: np.ndarray
    labels: list[int]
    masks: np.ndarray


def draw_scene(
    rng: np.random.RandomState, size: int = 160, empty: bool = False, style: Style = SMALL_OBJECTS
) -> Scene:
    """Draw a scene.

    Args:
        rng: where all random numbers come from.
        size: in pixels. Each side of the image lies between 4/5 and 11/10 of it; the longest side
            of an object is 100 pixels, or 5/8 of `size` if that is less.
        empty: without objects.
        style: what it looks like.
    """
    height, width = (_whole(rng, size * 4 // 5, size * 11 // 10) for _ in range(2))
    kind = style.backgrounds[_whole(rng, 0, len(style.backgrounds) - 1)]
    image = _texture(rng, height, width, kind, _between(rng, 5, 36))  # H W 3
    objects: list[_Object] = []
    # fewer objects more often: the smaller of two draws
    number = 0 if empty else min(_whole(rng, 1, MAX_OBJECTS) for _ in range(2))
    tries = 0
    while len(objects) < number and (not objects or tries < number * TRIES):
        tries += 1
        placed = _place_object(rng, image, objects, min(MAX_SIDE, size * 5 // 8), style)
        if placed is not None:
            image, objects = placed
    grain = np.frombuffer(rng.bytes(2 * height * width * 3), np.uint8).astype(np.float32)
    grain = grain.reshape(2, height, width, 3).sum(0) - 255.0  # triangular, -255 .. 255, exact
    image = image + grain * (_between(rng, 6, 18) / 255)
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    masks = np.zeros((len(objects), height, width), bool)
    for mask, drawn in zip(masks, objects, strict=True):
        mask[:] = drawn.mask
    return Scene(image, [drawn.label for drawn in objects], masks)


class _Object(NamedTuple):
    """An object of a scene.

    Attributes:
        label: index into CLASSES.
        mask: H W, bool, the visible pixels.
        num_pixels: their number if nothing hid the object.
    """

    label: int
    mask: np.ndarray
    num_pixels: int


def _place_object(
    rng: np.random.RandomState,
    image: np.ndarray,
    objects: list[_Object],
    max_side: int,
    style: Style,
) -> tuple[np.ndarray, list[_Object]] | None:
    """Try to draw one more object, in front of the others: the new image (H W 3) and its objects.

    None if it would hide too much of another object, stand out too little or miss the sizes.
    """
    height, width = image.shape[:2]
    label = _whole(rng, 0, len(CLASSES) - 1)
    cover = _shape(rng, label, max_side, style)  # h w, 0 .. 1
    h, w = cover.shape
    fill = _fill(rng, label, h, w, style)  # h w 3
    # at most a quarter of its sides beyond an edge
    top = _whole(rng, -(h // 4), height - h + h // 4)
    left = _whole(rng, -(w // 4), width - w + w // 4)
    if max(h, w) > max_side:
        return None

    visible = slice(max(top, 0), min(top + h, height)), slice(max(left, 0), min(left + w, width))
    inner = tuple(slice(s.start - o, s.stop - o) for s, o in zip(visible, (top, left), strict=True))
    solid = cover >= 0.5
    mask = np.zeros((height, width), bool)
    mask[visible] = solid[inner]
    after = [drawn._replace(mask=drawn.mask & ~mask) for drawn in objects]
    after.append(_Object(label, mask, int(solid.sum())))
    for drawn in after:
        smaller = min(box_of(drawn.mask)[2:])
        if smaller < MIN_SIDE or drawn.mask.sum() < MIN_VISIBLE * drawn.num_pixels:
            return None

    behind = image[visible][solid[inner]].astype(np.int64).sum(0)  # integer sums are exact
    front = fill[inner][solid[inner]].astype(np.int64).sum(0)
    if np.abs(front - behind).sum() < MIN_CONTRAST * mask.sum():
        return None

    image = image.copy()
    image[visible] += (fill[inner] - image[visible]) * cover[inner][..., None]
    return image, after


def _shape(rng: np.random.RandomState, label: int, max_side: int, style: Style) -> np.ndarray:
    """How much of each pixel a rotated shape covers, in quarters of 0 .. 1: h w of its box."""
    sides = style.sides
    step = _between(rng, 0, len(sides) - 1)
    low = int(step)
    side = sides[low] + (sides[low + 1] - sides[low]) * (step - low)
    side = min(side, max_side)
    narrow = _between(rng, 0.65, 1)
    half_u, half_v = side / 2, side / 2 * narrow
    if rng.random_sample() < 0.5:
        half_u, half_v = half_v, half_u
    cos, sin = _tilt(rng)
    reach = int(side * 0.75) + 2  # no corner lies beyond half a diagonal
    # 2x2 samples in each pixel, from the object's centre, which lies anywhere in its pixel
    grid = (np.arange(4 * reach, dtype=np.float32) + 0.5) / 2 - reach
    x = (grid - _between(rng, 0, 1))[None, :]
    y = (grid - _between(rng, 0, 1))[:, None]
    u = (x * cos + y * sin) / half_u
    v = (y * cos - x * sin) / half_v
    arm = _between(rng, *style.arm)
    if CLASSES[label] == 'disc':
        inside = u * u + v * v <= 1
    elif CLASSES[label] == 'triangle':
        inside = (v >= -1) & (2 * np.abs(u) + v <= 1)
    else:
        u, v = np.abs(u), np.abs(v)
        inside = (np.maximum(u, v) <= 1) & (np.minimum(u, v) <= arm)
    counts = inside.reshape(2 * reach, 2, 2 * reach, 2).sum((1, 3))
    left, top, w, h = box_of(counts >= 2)
    return counts[top : top + h, left : left + w].astype(np.float32) / 4


def _fill(
    rng: np.random.RandomState, label: int, height: int, width: int, style: Style
) -> np.ndarray:
    """The texture of an object of this class, coarse enough to be visible: H W 3."""
    side = (height + width) / 2
    period = side / _between(rng, *style.repeats[label])
    return _texture(rng, height, width, _KINDS[label], period, style.contrast)


def _texture(
    rng: np.random.RandomState,
    height: int,
    width: int,
    kind: int,
    period: float,
    contrast: int = 0,
) -> np.ndarray:
    """Two related colours mixed by a pattern, under a gradient of light: H W 3, float32, 0 .. 255.

    Args:
        rng: where all random numbers come from.
        height: H, in pixels.
        width: W, in pixels.
        kind: 0 clouds, 1 blotches, 2 stripes, 3 checks.
        period: of the pattern, in pixels.
        contrast: difference of the two colours in each channel, give or take 35.
    """
    grey = _between(rng, 25, 230)
    strength = _between(rng, 0.1, 0.85)
    first = [grey + (_between(rng, 25, 230) - grey) * strength for _ in range(3)]
    towards = -1 if grey > 127 else 1
    second = [c + towards * contrast + _between(rng, -35, 35) for c in first]

    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    cos, sin = _turn(rng)
    if kind == 0:  # clouds
        mix = 0.65 * _noise(rng, height, width, period)
        mix = mix + 0.35 * _noise(rng, height, width, period / 2)
    elif kind == 1:  # blotches
        mix = _sharpen(_noise(rng, height, width, period), 5)
    elif kind == 2:  # stripes, waved a little
        bend = _noise(rng, height, width, 30) * _between(rng, 0, 0.8)
        mix = _wave((x * cos + y * sin) / period + bend, _between(rng, 1, 6))
    else:  # checks
        sharp = _between(rng, 2, 6)
        one = _wave((x * cos + y * sin) / period, sharp)
        two = _wave((y * cos - x * sin) / period, sharp)
        mix = one + two - one * two * 2
    light = (x / width - 0.5) * _between(rng, -60, 60) + (y / height - 0.5) * _between(rng, -60, 60)
    layers = [light + mix * (b - a) + a for a, b in zip(first, second, strict=True)]
    return np.clip(np.stack(layers, axis=-1), 0, 255)


def _noise(rng: np.random.RandomState, height: int, width: int, cell: float) -> np.ndarray:
    """Value noise, smooth between random nodes `cell` pixels apart: H W, float32, 0 .. 1."""
    at, weights = [], []
    for length in (height, width):
        position = np.arange(length, dtype=np.float32) / cell
        node = np.floor(position)
        t = position - node
        at.append(node.astype(np.int64))
        weights.append(t * t * (3 - t * 2))
    rows, columns = int(at[0][-1]) + 2, int(at[1][-1]) + 2
    nodes = rng.random_sample((rows, columns)).astype(np.float32)
    lines = nodes[at[0]] + (nodes[at[0] + 1] - nodes[at[0]]) * weights[0][:, None]
    return lines[:, at[1]] + (lines[:, at[1] + 1] - lines[:, at[1]]) * weights[1]


def _wave(phase: np.ndarray, sharpness: float) -> np.ndarray:
    """A triangle wave of period 1 in `phase`, towards a square wave with sharpness: 0 .. 1."""
    return _sharpen(np.abs((phase - np.floor(phase)) * 2 - 1), sharpness)


def _sharpen(values: np.ndarray, sharpness: float) -> np.ndarray:
    return np.clip((values - 0.5) * sharpness + 0.5, 0, 1)


def _turn(rng: np.random.RandomState) -> tuple[float, float]:
    """Cosine and sine of a random angle: two turns by Pythagorean triples, one after the other."""
    cos, sin = 1.0, 0.0
    for _ in range(2):
        a, b, c = _TRIPLES[_whole(rng, 0, len(_TRIPLES) - 1)]
        p, q = (a / c, b / c) if rng.random_sample() < 0.5 else (b / c, a / c)
        p = p if rng.random_sample() < 0.5 else -p
        q = q if rng.random_sample() < 0.5 else -q
        cos, sin = cos * p - sin * q, sin * p + cos * q
    return cos, sin


def _tilt(rng: np.random.RandomState) -> tuple[float, float]:
    """Cosine and sine of an angle within 23 degrees: objects stand more or less upright."""
    a, b, c = _TILTS[_whole(rng, 0, len(_TILTS) - 1)]
    return a / c, b / c if rng.random_sample() < 0.5 else -b / c


def _between(rng: np.random.RandomState, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random_sample())  # rng.uniform may round otherwise


def _whole(rng: np.random.RandomState, low: int, high: int) -> int:
    """Any of low, low + 1, ..., high."""
    return low + int(rng.random_sample() * (high - low + 1))


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """COCO's box x, y, w, h in pixels around the true pixels of H W; all 0 if there are none."""
    x1, y1, x2, y2 = box_around(mask)
    return x1, y1, x2 - x1, y2 - y1
