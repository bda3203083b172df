"""What an export can be asked for; importing this needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from backbone.errors import UserError
from effvim.config.run_spec import ModelChoices

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

    def check(self) -> None:
        """Check the choices against each other.

        Raises:
            UserError: one of them is out of range, or cannot be had with another.
        """
        if Path(self.out).suffix != '.onnx' or Path(self.out).is_dir():
            raise UserError(f'--out {self.out}: pass the name of a file, *.onnx')
        if self.size and min(self.size) < SMALLEST:
            raise UserError(
                f'--size {self.size[0]} {self.size[1]}: at least {SMALLEST} pixels each'
            )
        if self.int8 and self.backbone_only:
            raise UserError(
                '--int8 is accepted by its metrics, --backbone-only has none: drop one of them'
            )
        self.asked()
