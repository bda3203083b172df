#!/usr/bin/env python3
"""Find objects or classes in pictures: tools/infer.py CONFIG CHECKPOINT IMAGE|DIR|GLOB --out DIR"""

import sys

from effvim.cli import run
from effvim.infer import main

if __name__ == '__main__':
    sys.exit(run(main))
