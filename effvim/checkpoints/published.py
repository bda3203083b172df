"""The index of published weights, by name; importing this needs no torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json

from backbone.errors import UserError
from effvim.checkpoints.kinds import CHECKPOINT, EXPORTED
from effvim.resources import PUBLISHED_WEIGHTS

SCHEME = 'effvim://'


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """An entry of the index, `published.json`. None stands for what was not published.

    Attributes:
        name: e.g. retinanet_effvim_m4; of backbones e.g. efficientvim_m4_e450, which are the
            averaged (EMA) weights, and efficientvim_m4_e450_raw.
        task: 'detection', 'instance segmentation', 'semantic segmentation' or 'backbone'.
        config: name of the packaged config; None for backbones.
        source: 'drive' (Google Drive) or 'hub' (Hugging Face's).
        location: the file's id on Google Drive, or the repository on the hub.
        file: name that the file has at a mirror, and when it was downloaded by hand.
        format: who wrote it: 'mmdet' (2), 'mmseg' (0), 'imagenet' (the authors' training), 'timm'.
        score: the published score.
        size: in bytes.
        sha256: of the file.
    """

    name: str
    task: str
    config: str | None
    source: str
    location: str
    file: str
    format: str
    score: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def url(self) -> str:
        """The address at which a browser downloads the file."""
        if self.source == 'drive':
            return f'https://drive.google.com/uc?id={self.location}'
        return f'https://huggingface.co/{self.location}/resolve/main/model.safetensors'

    @property
    def ema(self) -> bool | None:
        """Which weights of the file are meant, see `backbone.weights.weights_key`."""
        return False if self.format == 'imagenet' else None


@functools.cache
def index() -> dict[str, PublishedWeights]:
    """All published weights by name."""
    entries = json.loads(PUBLISHED_WEIGHTS.read_text(encoding='utf-8'))
    return {entry['name']: PublishedWeights(**entry) for entry in entries}


def find(name: str) -> PublishedWeights:
    """Published weights by name, with or without effvim:// in front.

    Raises:
        UserError: there are none of that name.
    """
    name = name.removeprefix(SCHEME)
    if name not in index():
        near = difflib.get_close_matches(name, index(), n=1)
        question = f'did you mean {near[0]}? ' if near else ''
        raise UserError(
            f'there are no published weights called {name}: {question}effvim weights list names all'
        )
    return index()[name]


def of_config(config: str) -> PublishedWeights:
    """The published weights of a packaged config.

    Args:
        config: its name.

    Raises:
        UserError: none were published; names the configs that have some.
    """
    config = config.removesuffix('.py')
    by_config = {weights.config: weights for weights in index().values() if weights.config}
    if config not in by_config:
        raise UserError(
            f'{config} has no published weights: pass a {CHECKPOINT} or an {EXPORTED} after it; '
            f'published are those of {", ".join(by_config)}'
        )
    return by_config[config]
