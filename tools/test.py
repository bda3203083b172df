#!/usr/bin/env python3
"""Evaluate a checkpoint or exported file: tools/test.py [CONFIG] CHECKPOINT …"""

import sys

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('test', __file__))
