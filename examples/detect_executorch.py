"""Run a file of `effvim export` with ExecuTorch, NumPy and Pillow; needs fixed_size.py next to it.

    python detect_executorch.py model.pte photo.jpg [--score-thr 0.3]

Prints one line for each object: class, score, and the box x1 y1 x2 y2 in pixels of the photo. Of a
segmentor it prints the fraction of the pixels of each class. ExecuTorch's Python package needs
PyTorch, too; its C++, Java and Swift ones do not.
"""

from collections.abc import Callable

import fixed_size
import numpy as np
import torch
from executorch.runtime import Runtime


def start(path: str, about: dict) -> Callable[[np.ndarray], dict]:
    program = Runtime.get().load_program(path)
    method = program.load_method('forward')

    def run(image: np.ndarray) -> dict:
        outputs = method.execute([torch.from_numpy(image[None])])
        return {name: value[0].numpy() for name, value in zip(about['outputs'], outputs)}

    return run


if __name__ == '__main__':
    fixed_size.main(__doc__.splitlines()[0], start)
