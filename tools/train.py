#!/usr/bin/env python3
"""Train a detector or segmentor: tools/train.py CONFIG [--mini] …"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('train', __file__))
