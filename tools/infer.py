#!/usr/bin/env python3
"""Detect or segment objects in images: tools/infer.py [CONFIG] CHECKPOINT IMAGE --out DIR"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('infer', __file__))
