#!/usr/bin/env python3
"""Evaluate a checkpoint: tools/test.py CONFIG CHECKPOINT …"""

import sys

from effvim.cli import run
from effvim.test import main

if __name__ == '__main__':
    sys.exit(run(main))
