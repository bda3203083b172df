#!/usr/bin/env python3
"""Export a checkpoint to ONNX: tools/export.py CONFIG CHECKPOINT --out FILE …"""

import sys

from effvim.cli import run
from effvim.export import main

if __name__ == '__main__':
    sys.exit(run(main))
