"""Checkpoints: file format, matching with models, conversion, published weights by name.

Importing it lets `effvim://NAME` stand for published weights wherever weights are named, also in
configs: `backbone.hub.resolve` then asks `fetching.fetch`.
"""

from __future__ import annotations

from pathlib import Path

from backbone.hub import register_scheme


def _fetch(name: str) -> Path:
    from effvim.checkpoints.fetching import fetch

    return fetch(name)


register_scheme('effvim', _fetch)
