"""Published weights and checkpoints as safetensors under this project's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import UserError
from backbone.hub import resolve
from effvim.files import ensure_writable, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from backbone.names import Translation


# Kind of network, by a tensor that only it has.
KINDS = {
    'roi_head.mask_head.conv_logits.weight': 'Mask R-CNN',
    'bbox_head.retina_cls.weight': 'RetinaNet',
    'decode_head.scale_heads.0.0.conv.weight': 'Semantic FPN',
    'heads_dist.0.weight': 'classifier with distillation heads',
    'heads.0.weight': 'classifier',
}

# Names under which files hold weights, see `weights.weights_key`.
ENTRIES = ('state_dict', 'ema_state_dict', 'model', 'model_ema')


class Conversion(NamedTuple):
    """What `convert` did with a file."""

    what: str  # e.g. RetinaNet on EfficientViM-M4
    origin: str  # e.g. a checkpoint of mmdet 2.25.0
    entry: str  # name of the weights that were taken
    translation: Translation
    ignored: list[str]  # other entries of the file
    classes: tuple[str, ...]
    size: int  # bytes written


def convert(source: str | Path, dest: str | Path, ema: bool | None = None) -> Conversion:
    """Write the weights in `source`, a file or hub id, to the safetensors file `dest`.

    An existing `dest` is replaced atomically. Class names and the `RunSpec` of this project's
    training go into the metadata.

    Args:
        source: a file of the authors, of timm or of this project's training, or a hub id such as
            timm/efficientvim_m4.e450_in1k.
        dest: the file to write, *.safetensors.
        ema: True for averaged weights, False for raw ones, see `weights.weights_key`.

    Raises:
        UserError: `source` cannot be fetched, read or recognised, or `dest` cannot be written.
    """
    dest = Path(dest)
    if dest.suffix != '.safetensors' or dest.is_dir():
        raise UserError(f'{dest} must be the name of a file that ends in .safetensors')
    path = resolve(source)
    ensure_writable(dest.parent, 'DEST')
    if dest.exists() and dest.samefile(path):
        raise UserError(f'{dest} is SOURCE itself: pass another DEST')

    import numpy as np
    import torch
    from safetensors.torch import save

    from backbone import weights
    from backbone.names import translate
    from effvim.checkpoints import checkpoint

    content = checkpoint.read_file(path)
    entry = weights.weights_key(content, path, ema)
    translation = translate(weights.state_dict_of(content, path, ema=ema))
    about: dict[str, Any] = {'what': recognise(translation.tensors, path)}
    classes = checkpoint.classes_of(content)
    if classes:
        meta = content['meta'].get('dataset_meta') or content['meta']
        about['dataset_meta'] = {'classes': classes}
        palette = meta.get('palette', meta.get('PALETTE'))
        if palette is not None:
            about['dataset_meta']['palette'] = np.asarray(palette).tolist()
    if checkpoint.describe(content):
        about['effvim'] = checkpoint.describe(content)
    # a copy of each: a file may hold views, or channels-last
    plain = {
        n: v.clone(memory_format=torch.contiguous_format) for n, v in translation.tensors.items()
    }
    # a literal, as JSON would make lists of tuples, such as an image scale among a run's options
    data = save(plain, {weights.METADATA: repr(about)})
    try:
        write_atomic(dest, data)
    except OSError as error:
        raise UserError(f'{dest} cannot be written: {error.strerror}') from error
    ignored = [key for key in content if key not in (entry, 'meta')] if entry else []
    return Conversion(
        about['what'],
        origin_of(content, path),
        entry or 'the tensors',
        translation,
        ignored,
        classes,
        len(data),
    )


def recognise(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Which network translated tensors belong to, e.g. 'RetinaNet, EfficientViM-M4'.

    Raises:
        UserError: they contain no EfficientViM, or an incomplete one.
    """
    import torch

    from backbone import EfficientViM
    from backbone.names import arch_of
    from backbone.weights import fit

    prefix = 'backbone.'
    below = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    backbone = below or tensors
    arch = arch_of(backbone)
    if arch is None:
        begin = sorted({name.split('.')[0] for name in tensors})
        raise UserError(
            f'{path} is not recognised: no EfficientViM in it, neither alone nor below '
            f'backbone; its names begin with {", ".join(begin[:5])}'
        )
    stages = 1 + max(int(n.split('.')[1]) for n in backbone if n.startswith('stages.'))
    with torch.device('meta'):
        fit(EfficientViM(arch, range(stages)).state_dict(), backbone, path)
    kinds = [kind for name, kind in KINDS.items() if name in tensors]
    kind = (kinds or ['detector or segmentor' if below else 'backbone'])[0]
    return f'{kind}, EfficientViM-{arch.upper() if isinstance(arch, str) else arch}'


def origin_of(content: Mapping[str, Any], path: Path) -> str:
    """Which program wrote a file, in words."""
    meta = content.get('meta') or {}
    if 'effvim' in meta:
        return "a checkpoint of this project's training"
    for package in ('mmdet', 'mmseg', 'mmengine'):
        if f'{package}_version' in meta:
            return f'a checkpoint of {package} {meta[f"{package}_version"]}'
    if 'model' in content:
        return 'an ImageNet checkpoint of the authors'
    if 'what' in meta:
        return 'converted by this project'
    return 'safetensors' if path.suffix == '.safetensors' else 'a state dict'
