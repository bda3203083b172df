"""The published score and cost in the comment at the top of a config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class ConfigHeader(NamedTuple):
    """What a config says of itself in its first comment; '' for what it does not say."""

    score: str
    measured: str
    memory: str
    device: str
    batch: str


def read_header(path: Path) -> ConfigHeader:
    """The published score and cost in the header of a config."""
    text = ' '.join(line[1:].strip() for line in path.read_text().split('_base_')[0].splitlines())
    published = re.search(r'Published: (.+?) \((.+?)\)\. ', text)
    cost = re.search(
        r'([\d,]+ MiB)(?: a card)? on (.+?), (?:(\d+) images each)?',
        published[2] if published else '',
    )
    measured = re.search(r'Measured by us: (.+?)\.(?: |$)', text)
    return ConfigHeader(
        published[1] if published else '',
        measured[1] if measured else '',
        *(cost.groups('') if cost else ('', '', '')),
    )
