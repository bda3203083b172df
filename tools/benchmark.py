#!/usr/bin/env python3
"""Measure speed and memory: tools/benchmark.py backbone|model|evaluation|page …"""

import sys

from effvim.benchmark import main
from effvim.cli import run

if __name__ == '__main__':
    sys.exit(run(main))
