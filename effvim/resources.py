"""Files that come with the package but are no modules: the configs and the tested versions.

A wheel holds copies of them inside `effvim/` (see setup.py); in a checkout, also one installed with
`pip install -e`, they are those at the top.
"""

from __future__ import annotations

from pathlib import Path


def _shipped(name: str) -> Path:
    inside = Path(__file__).with_name(name)
    return inside if inside.exists() else Path(__file__).resolve().parents[1] / name


CONFIGS = _shipped('configs')
REQUIREMENTS = _shipped('requirements.txt')
PUBLISHED_CURVES = Path(__file__).with_name('published_curves.json')
PUBLISHED_WEIGHTS = Path(__file__).with_name('checkpoints') / 'published.json'
