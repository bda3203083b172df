"""Switch off the usage reports of onnxruntime, OpenVINO and NNCF.

Each sends the first one when it is imported, unless it was told not to beforehand.
"""

from __future__ import annotations

import os
import sys


def switch_off() -> None:
    """Switch the reports off in this process."""
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    # OpenVINO and NNCF report with this package, and work without it
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
