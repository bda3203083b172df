#!/usr/bin/env python3
"""Evaluate a checkpoint or exported file: tools/test.py [CONFIG] CHECKPOINT …"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('test', __file__))
