#!/usr/bin/env python3
"""Export a checkpoint to ONNX: tools/export.py [CONFIG] CHECKPOINT --out FILE …"""

import sys

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('export', __file__))
