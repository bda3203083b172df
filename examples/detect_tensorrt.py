"""Run a file of `effvim export` with TensorRT 10, NumPy and Pillow; needs fixed_size.py next to it.

    trtexec --onnx=model.trt.onnx --stronglyTyped --saveEngine=model.engine
    python detect_tensorrt.py model.engine photo.jpg [--score-thr 0.3]

model.trt.onnx.json lies next to the engine. Prints one line for each object: class, score, and the
box x1 y1 x2 y2 in pixels of the photo. Of a segmentor it prints the share of the pixels that each
class takes. The GPU's memory is reached through cuda-python. Not verified: written without a GPU.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixed_size
import numpy as np

try:
    import tensorrt
    from cuda.bindings import runtime as cuda
except ImportError as error:
    sys.exit(f'detect_tensorrt.py needs tensorrt and cuda-python, and a GPU by NVIDIA: {error}')


def checked(result: tuple) -> Any:
    """What a call of CUDA returns after its status."""
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        sys.exit(f'CUDA: {status}')
    return values[0] if values else None


def start(path: str, about: dict) -> Callable[[np.ndarray], dict]:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        sys.exit(f'{path} cannot be read: build it with this TensorRT, on this GPU')
    context = engine.create_execution_context()
    stream = checked(cuda.cudaStreamCreate())
    arrays, addresses = {}, {}
    for name in ('images', *about['outputs']):
        kind = tensorrt.nptype(engine.get_tensor_dtype(name))
        arrays[name] = np.empty(tuple(engine.get_tensor_shape(name)), kind)
        addresses[name] = checked(cuda.cudaMalloc(arrays[name].nbytes))
        context.set_tensor_address(name, int(addresses[name]))

    def copy(name: str, to_gpu: bool) -> None:
        kinds = cuda.cudaMemcpyKind
        places = addresses[name], arrays[name].ctypes.data
        way = kinds.cudaMemcpyHostToDevice if to_gpu else kinds.cudaMemcpyDeviceToHost
        places = places if to_gpu else places[::-1]
        checked(cuda.cudaMemcpy(*places, arrays[name].nbytes, way))

    def run(image: np.ndarray) -> dict:
        arrays['images'][0] = image
        copy('images', to_gpu=True)
        if not context.execute_async_v3(int(stream)):
            sys.exit(f'{path} cannot be run')
        checked(cuda.cudaStreamSynchronize(stream))
        for name in about['outputs']:
            copy(name, to_gpu=False)
        return {name: arrays[name][0].copy() for name in about['outputs']}

    return run


if __name__ == '__main__':
    fixed_size.main(
        __doc__.splitlines()[0], start, lambda path: str(Path(path).with_suffix('.trt.onnx.json'))
    )
