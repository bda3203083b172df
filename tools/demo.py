#!/usr/bin/env python3
"""A web page to try a checkpoint on pictures: tools/demo.py CONFIG CHECKPOINT …"""

import sys

from effvim.cli import run
from effvim.demo import main

if __name__ == '__main__':
    sys.exit(run(main))
