"""Checkpoints and exported files, told apart by their suffixes; importing this needs no torch."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import UserError

CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors')
# Exported files that can be run here, and what runs them by default.
RUNTIME_OF = {
    '.onnx': 'onnxruntime',
    '.xml': 'openvino',
    '.ncnn.param': 'ncnn',
    '.tflite': 'litert',
    '.pte': 'executorch',
}
EXPORTED_SUFFIXES = tuple(RUNTIME_OF)
ENGINE_SUFFIXES = ('.engine', '.plan')  # of TensorRT, which alone can run them

# What help and messages say of them.
CHECKPOINT = f'checkpoint ({", ".join(f"*{suffix}" for suffix in CHECKPOINT_SUFFIXES)})'
EXPORTED = f'exported file ({", ".join(f"*{suffix}" for suffix in EXPORTED_SUFFIXES)})'


def weights_of(path: str) -> Path:
    """The file with the weights of an exported file, which may be that file."""
    separate = runtime_of(path) in ('openvino', 'ncnn')
    return Path(path).with_suffix('.bin') if separate else Path(path)


def is_exported(path: str) -> bool:
    """Whether a path is that of an exported file, not of a checkpoint."""
    return path.lower().endswith(EXPORTED_SUFFIXES)


def has_model_suffix(name: str) -> bool:
    """Whether a name is one that checkpoints or exported files have."""
    return name.lower().endswith((*CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES))


def refuse_engine(path: str) -> None:
    """Raise if a path is that of an engine of TensorRT.

    Raises:
        UserError: it is.
    """
    if path.lower().endswith(ENGINE_SUFFIXES):
        raise UserError(
            f'{path} is an engine of TensorRT: run it with TensorRT itself, e.g. '
            f'examples/detect_tensorrt.py, or pass the *.trt.onnx that it was built from'
        )


def runtime_of(path: str) -> str:
    """What runs an exported file by default; '' for other files."""
    return next((name for end, name in RUNTIME_OF.items() if path.lower().endswith(end)), '')


def is_model_file(name: str) -> bool:
    """Whether a name is that of an existing checkpoint or exported file."""
    return has_model_suffix(name) and Path(name).is_file()
