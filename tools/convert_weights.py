#!/usr/bin/env python3
"""Published weights as safetensors under our names: tools/convert_weights.py SOURCE DEST …"""

import sys

from effvim.cli import run
from effvim.convert import main

if __name__ == '__main__':
    sys.exit(run(main))
