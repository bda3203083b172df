"""Run a file of `effvim export` with LiteRT, NumPy and Pillow; needs fixed_size.py next to it.

    python detect_litert.py model.tflite photo.jpg [--score-thr 0.3]

Prints one line for each object: class, score, and the box x1 y1 x2 y2 in pixels of the photo. Of a
segmentor it prints the fraction of the pixels of each class.
"""

from collections.abc import Callable

import fixed_size
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def start(path: str, about: dict) -> Callable[[np.ndarray], dict]:
    interpreter = Interpreter(path)  # num_threads=N for more than one thread

    def run(image: np.ndarray) -> dict:
        outputs = interpreter.get_signature_runner()(images=image[None])
        return {name: value[0] for name, value in outputs.items()}

    return run


if __name__ == '__main__':
    fixed_size.main(__doc__.splitlines()[0], start)
