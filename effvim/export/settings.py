"""What an export can be asked for; importing this needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.kinds import is_exported, weights_of
from effvim.config.run_spec import ModelChoices

FORMATS = {  # and the suffixes of their files
    'onnx': '.onnx',
    'openvino': '.xml',
    'ncnn': '.ncnn.param',
    'coreml': '.mlpackage',
    'litert': '.tflite',
    'executorch': '.pte',
    'tensorrt': '.trt.onnx',
}
# Formats that take images of one size, one at a time, and leave NMS to the caller.
FIXED_SIZE = ('ncnn', 'coreml', 'litert', 'executorch', 'tensorrt')
SMALLEST = 64  # pixels of the shorter side of an image


@dataclasses.dataclass(kw_only=True)
class ExportSettings(ModelChoices):
    """The choices of an export; see `effvim.export_model` for what each means."""

    checkpoint: str
    out: str | Path
    size: tuple[int, int] | None = None
    normalised: bool = False
    backbone_only: bool = False
    images: str | Path | None = None
    int8: str | Path | None = None
    format: str | None = None

    @property
    def runtime(self) -> str:
        """What runs the file, and decides about the form of its graph."""
        named = [name for name, suffix in FORMATS.items() if str(self.out).endswith(suffix)]
        name = self.format or (named or ['onnx'])[-1]  # *.trt.onnx is *.onnx, too
        return 'onnxruntime' if name == 'onnx' else name

    @property
    def is_fixed_size(self) -> bool:
        """Whether the format takes images of one size and leaves NMS to the caller."""
        return self.runtime in FIXED_SIZE

    def __post_init__(self) -> None:
        if self.format and not Path(self.out).suffix:
            self.out = f'{self.out}{FORMATS.get(self.format, "")}'

    def check(self) -> None:
        """Check the choices against each other.

        Raises:
            UserError: one of them is out of range, or cannot be had with another.
        """
        if is_exported(self.checkpoint):
            raise UserError(
                f'{self.checkpoint} is an exported file: pass the checkpoint that it was made from'
            )
        suffixes = [FORMATS[self.format]] if self.format else list(FORMATS.values())
        is_folder = Path(self.out).is_dir() and self.runtime != 'coreml'  # whose files are folders
        if not str(self.out).endswith(tuple(suffixes)) or is_folder:
            kinds = ' or '.join(f'*{suffix}' for suffix in suffixes)
            raise UserError(f'--out {self.out}: pass the name of a file, {kinds}')
        weights = weights_of(str(self.out))
        if weights != Path(self.out) and weights.exists() and not Path(self.out).exists():
            raise UserError(
                f'--out {self.out}: {weights} is there without it and would be replaced: choose '
                f'another name'
            )
        if self.size and min(self.size) < SMALLEST:
            raise UserError(
                f'--size {self.size[0]} {self.size[1]}: at least {SMALLEST} pixels each'
            )
        if self.int8 and self.is_fixed_size:
            raise UserError(f'--int8 is for *.onnx and *.xml, not for {self.out}: drop it')
        if self.int8 and self.backbone_only:
            raise UserError(
                '--int8 is accepted by its metrics, --backbone-only has none: drop one of them'
            )
        self.asked()
