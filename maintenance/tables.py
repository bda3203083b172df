"""The tables of README.md and configs/gallery/README.md, from the configs, their headers, the code.

    python -m effvim.tables

writes them between the markers. Published figures of a config stand in its header and nowhere else,
those of the classifiers and what we measured stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbone import ARCHS, EfficientViM, EfficientViMClassifier
from backbone.imagenet import IMAGE_SIZES
from effvim.benchmark.counting import macs, parameters
from effvim.benchmark.published import TOP1
from effvim.benchmark.tables import row
from effvim.config.headers import read_header
from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import is_segmentor
from effvim.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]

BEGIN, END = '<!-- tables: written by make tables -->', '<!-- tables: end -->'

SOURCE = """\
Published: the authors' [paper](https://arxiv.org/abs/2411.15241) and
[repository](https://github.com/mlvlab/EfficientViM), of the last epoch or iteration. MACs are those
of convolutions and matrix products, of Mask R-CNN with as many proposals and boxes as its test
settings allow.

Training memory by pictures a process; measured are three steps, by `python -m effvim.memory CONFIG
--cfg-options train_dataloader.batch_size=4` and the like, which works on a GPU too:"""

# MiB by pictures a process, from `python -m effvim.memory` on real pictures.
CPU = 'a CPU, whole process'

MEASURED = {
    'mask_rcnn_effvim_m4': {1: 2776, 2: 4203},
    'retinanet_effvim_m4': {1: 2739, 2: 4846, 4: 7529},
    'semfpn_effvim_m4': {1: 1821, 2: 2503, 4: 3851, 8: 6367},
}

BATCHES = (1, 2, 4, 8, 16)


def build(path: Path) -> tuple[Config, Any]:
    """A config and its model, without storage."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(str(path))
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model).eval()


def forward(cfg: Config, model: Any) -> tuple[Callable[[], None], str]:
    """What is counted for a detector or segmentor, and at which size.

    Detectors: one picture of 1333 × 800, padded, or of the size that the config pads to; of Mask
    R-CNN also the heads on all proposals and on the masks of all boxes that the test settings
    allow. Segmentors: one crop of training.
    """
    segmentor = is_segmentor(cfg)
    padded = [step.size for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Pad']
    width, height = [*padded, (1344, 800)][0]
    if segmentor:
        height, width = cfg.model.data_preprocessor.size

    def run() -> None:
        maps = model.extract_feat(torch.empty(1, 3, height, width, device='meta'))
        for name in ('bbox_head', 'rpn_head', 'decode_head'):
            if getattr(model, name, None) is not None:
                getattr(model, name)(maps)
        if getattr(model, 'roi_head', None) is not None:
            heads, test = model.roi_head, model.test_cfg
            for head, extractor, count in (
                (heads.bbox_head, heads.bbox_roi_extractor, test.rpn.max_per_img),
                (heads.mask_head, heads.mask_roi_extractor, test.rcnn.max_per_img),
            ):
                size = extractor.roi_layers[0].output_size
                head(torch.empty(count, extractor.out_channels, *size, device='meta'))

    return run, f'{width} × {height}'


def link(path: Path) -> str:
    """A config by name."""
    return f'[{path.stem}](configs/{path.name})'


def backbones() -> Iterator[str]:
    """M1 to M4 as classifiers and under a detector."""
    yield row(
        'variant',
        'parameters, classifier',
        'under a detector',
        'MACs, classifier',
        'published top-1 after 300 epochs',
        '450',
        'distilled',
        'measured by us',
    )
    yield row(*['---'] * 8)
    for arch in ARCHS:
        size = IMAGE_SIZES[arch]
        with torch.device('meta'):
            classifier, backbone = EfficientViMClassifier(arch).eval(), EfficientViM(arch)
            picture = torch.empty(1, 3, size, size)
        count = macs(partial(classifier, picture))
        yield row(
            arch.upper(),
            f'{parameters(classifier):,}',
            f'{parameters(backbone):,}',
            f'{count / 1e6:,.0f} M at {size} × {size}',
            *TOP1[arch],
            'no',
        )


def models(paths: list[Path]) -> Iterator[str]:
    """Every config."""
    yield row('config', 'parameters', 'MACs', 'published', 'measured by us')
    yield row(*['---'] * 5)
    for path in paths:
        cfg, model = build(path)
        run, size = forward(cfg, model)
        said = read_header(path)
        yield row(
            link(path),
            f'{parameters(model):,}',
            f'{macs(run) / 1e9:.1f} G at {size}',
            said.score or '–',
            said.measured or 'no',
        )


def memory(paths: list[Path]) -> Iterator[str]:
    """Training memory of the configs that have a published or measured figure."""
    yield row('config', 'device', *BATCHES)
    yield row(*['---'] * (2 + len(BATCHES)))
    for path in paths:
        said = read_header(path)
        if said.memory:
            batch = said.batch or str(load_config(str(path)).train_dataloader.batch_size)
            yield row(
                link(path),
                said.device,
                *(
                    f'{said.memory}, published' if batch == str(b) else 'not measured'
                    for b in BATCHES
                ),
            )
        if path.stem in MEASURED:
            cells = MEASURED[path.stem]
            yield row(
                link(path),
                CPU,
                *(f'{cells[b]:,} MiB, measured' if b in cells else 'not measured' for b in BATCHES),
            )


def gallery() -> Iterator[str]:
    """Every config of configs/gallery: what its header says, and which maps its heads read."""
    yield row('config', 'what', 'parameters', 'neck', 'strides')
    yield row(*['---'] * 5)
    for path in sorted((ROOT / 'configs/gallery').glob('*.py')):
        said = path.read_text().split('#\n')[1].split('# No published')[0]
        what = ' '.join(line.removeprefix('# ') for line in said.splitlines()).rstrip('.')
        cfg, model = build(path)
        neck = cfg.model.get('neck')
        yield row(
            f'[{path.stem}]({path.name})',
            what,
            f'{parameters(model):,}',
            f'`{neck.type}`' if neck else 'none',
            ', '.join(map(str, strides(model))),
        )


def strides(model: Any) -> list[int]:
    """Pixels between neighbouring positions of each map that the heads of a model get."""
    side = 512
    maps = model.extract_feat(torch.empty(1, 3, side, side, device='meta'))
    return [side // x.shape[3] for x in maps]


def readme() -> Iterator[str]:
    """The backbones, the models, their memory."""
    paths = sorted((ROOT / 'configs').glob('*.py'))
    yield from (*backbones(), '', *models(paths), '', SOURCE, '', *memory(paths))


PAGES = {ROOT / 'README.md': readme, ROOT / 'configs/gallery/README.md': gallery}


def insert(text: str, lines: Iterable[str]) -> str:
    """A page's text with other lines between the markers."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f'a page with tables needs the lines {BEGIN} and {END}')
    return '\n'.join([f'{before}{BEGIN}', '', *lines, '', f'{END}{after}'])


def main(_: object = None) -> None:
    """Write the pages."""
    for path, lines in PAGES.items():
        write_atomic(path, insert(path.read_text(), lines()).encode())
