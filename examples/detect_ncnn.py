"""Run a file of `effvim export` with ncnn, NumPy and Pillow; needs fixed_size.py next to it.

    python detect_ncnn.py model.ncnn.param photo.jpg [--score-thr 0.3]

Prints one line for each object: class, score, and the box x1 y1 x2 y2 in pixels of the photo. Of a
segmentor it prints the fraction of the pixels of each class.
"""

import sys
from collections.abc import Callable

import fixed_size
import ncnn
import numpy as np


def start(path: str, about: dict) -> Callable[[np.ndarray], dict]:
    net = ncnn.Net()
    if net.load_param(path) or net.load_model(path.removesuffix('param') + 'bin'):
        sys.exit(f'{path} cannot be read')

    def run(image: np.ndarray) -> dict:
        extractor = net.create_extractor()
        extractor.input('images', ncnn.Mat(image).clone())
        return {name: np.array(extractor.extract(name)[1]) for name in about['outputs']}

    return run


if __name__ == '__main__':
    fixed_size.main(__doc__.splitlines()[0], start)
