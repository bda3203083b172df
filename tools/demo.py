#!/usr/bin/env python3
"""Serve a web page to try a checkpoint on images: tools/demo.py [CONFIG] CHECKPOINT …"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('demo', __file__))
