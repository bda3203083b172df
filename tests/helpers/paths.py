"""Where the checkout and the real images are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get('EFFVIM_DATA', ROOT / '../shared/data'))
