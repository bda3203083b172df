"""What an export can be asked for; importing this needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.errors import UserError

SMALLEST = 64  # pixels of the shorter side of an image


@dataclasses.dataclass
class ExportSettings:
    """The choices of an export; see `effvim.export_model` for what each means."""

    checkpoint: str
    out: str | Path
    config: str | None = None
    size: tuple[int, int] | None = None
    normalised: bool = False
    backbone_only: bool = False
    images: str | Path | None = None
    int8: str | Path | None = None
    data_root: str | Path | None = None
    mini: bool = False
    from_scratch: bool = False
    work_dir: str | Path | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        if self.mini and self.data_root:
            raise UserError(
                '--mini brings its own synthetic dataset: drop --data-root, or drop --mini'
            )
