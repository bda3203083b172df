#!/usr/bin/env python3
"""Check the environment, a dataset and weights: tools/check.py [CONFIG] [--data-root DIR] …"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('check', __file__))
