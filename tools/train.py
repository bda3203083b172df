#!/usr/bin/env python3
"""Train a detector or segmentor: tools/train.py CONFIG [--mini] …"""

import sys

from effvim.cli import run
from effvim.train import main

if __name__ == '__main__':
    sys.exit(run(main))
