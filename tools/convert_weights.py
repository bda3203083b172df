#!/usr/bin/env python3
"""Convert published weights to safetensors: tools/convert_weights.py SOURCE DEST …"""

import sys

from effvim.cli.entry import tool

if __name__ == '__main__':
    sys.exit(tool('convert', __file__))
