#!/usr/bin/env python3
"""Train a detector or segmentor: tools/train.py CONFIG [--mini] …"""

import sys

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('train', __file__))
