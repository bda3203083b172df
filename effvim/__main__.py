"""`python -m effvim COMMAND …`."""

import sys

from effvim.cli.entry import script

if __name__ == '__main__':
    sys.exit(script())
