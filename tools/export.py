#!/usr/bin/env python3
"""Export a checkpoint to ONNX: tools/export.py [CONFIG] CHECKPOINT --out FILE …"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('export', __file__))
