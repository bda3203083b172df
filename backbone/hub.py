"""Weight files by path or hub id. Imports neither torch nor timm: a mistake shows at once."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from .errors import UserError

HUB_ID = re.compile(r'(?:hf-hub:)?(timm/efficientvim_m[1-4](?:_dist)?\.[\w.]+)')


def resolve(source: str | os.PathLike[str]) -> Path:
    """Return the local file for `source`, a path or a hub id like `timm/efficientvim_m4.e450_in1k`.

    A hub id is looked up in the hub client's cache first, then downloaded.

    Raises:
        UserError: there is no such file, or the hub cannot be reached; says where to put it.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    hub_id = HUB_ID.fullmatch(str(source))
    if not hub_id:
        raise UserError(
            f'weights {source} not found: pass a file, or one of the hub ids '
            f'timm/efficientvim_m{{1..4}}.e450_in1k, .e300_in1k and _dist.in1k'
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
