"""Weight files by path, hub id or scheme. Imports neither torch nor timm: errors show at once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

HUB_ID = re.compile(r'(?:hf-hub:)?(timm/efficientvim_m[1-4](?:_dist)?\.[\w.]+)')

SCHEME = re.compile(r'(\w+)://(.*)')

_resolvers: dict[str, Callable[[str], Path]] = {}  # by scheme


def register_scheme(scheme: str, resolver: Callable[[str], Path]) -> None:
    """Let `resolver` find the files of sources that begin with `scheme://`; it gets the rest."""
    _resolvers[scheme] = resolver


def resolve(source: str | os.PathLike[str]) -> Path:
    """Return the local file for `source`, a path or a hub id like `timm/efficientvim_m4.e450_in1k`.

    A hub id is looked up in the hub client's cache first, then downloaded. `NAME://…` is whatever
    was registered under that name; `effvim://…` are published weights.

    Raises:
        UserError: there is no such file, or the hub cannot be reached; says where to put it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    scheme = SCHEME.fullmatch(str(source))
    if scheme and scheme[1] in _resolvers:
        return _resolvers[scheme[1]](scheme[2])
    if scheme and scheme[1] == 'effvim':
        raise UserError(
            f'weights {source} have a name that the package effvim knows, which is not imported: '
            f"add 'effvim.checkpoints' to the config's custom_imports"
        )
    hub_id = HUB_ID.fullmatch(str(source))
    if not hub_id:
        raise UserError(
            f'weights {source} not found: pass a file, one of the hub ids '
            f'timm/efficientvim_m{{1..4}}.e450_in1k, .e300_in1k and _dist.in1k, or effvim:// and '
            f'a name that effvim weights list prints'
        )
    return _from_hub(hub_id[1])


def _from_hub(repo: str) -> Path:
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE

    name = 'model.safetensors'
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)  # it announces each retry
    cached = huggingface_hub.try_to_load_from_cache(repo, name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except Exception as error:  # the client raises its own, its HTTP library's and the system's
        raise UserError(
            f'weights {repo} cannot be fetched ({type(error).__name__}) and are not in '
            f'{HF_HUB_CACHE}: on a machine with a network run "hf download {repo} {name}", copy '
            f'the file here and pass its path instead of the id (for a config with --cfg-options '
            f'model.backbone.init_cfg.checkpoint=FILE), or train from scratch with --from-scratch'
        ) from error
