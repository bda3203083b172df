#!/usr/bin/env python3
"""Check the environment, a data set, weights: tools/check.py [CONFIG] [--data-root DIR] …"""

import sys

from effvim.check import main
from effvim.cli import run

if __name__ == '__main__':
    sys.exit(run(main))
