"""The runtimes of exported files do not tell their makers how they are used.

Each contacts a server as soon as it is imported, unless it is told not to beforehand.
"""

from __future__ import annotations

import os
import sys


def switch_off() -> None:
    """Switch the telemetry of onnxruntime, OpenVINO and NNCF off in this process."""
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    # OpenVINO and NNCF do without this package, which is all that they report with
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
