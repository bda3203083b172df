"""Writes the generated tables of README.md, docs/ and configs/gallery/README.md.

    python -m maintenance.tables

Published scores of a config are in its header and nowhere else; published accuracies of the
classifiers are in `effvim.benchmark.published`, benchmark results in docs/benchmarks/*.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config

from backbone import ARCHS, EfficientViM, EfficientViMClassifier
from backbone.imagenet import IMAGE_SIZES
from effvim import console
from effvim.benchmark.counting import count_macs, count_parameters
from effvim.benchmark.published import TOP1
from effvim.benchmark.tables import device_of, fastest, number, row, threads_of
from effvim.benchmark.timing import ratio
from effvim.config.headers import ConfigHeader, read_header
from effvim.config.reading import import_plugins, load_config
from effvim.config.runtime import RUNTIMES
from effvim.config.structure import is_segmentor
from effvim.files import write_atomic
from maintenance.benchmark_page import read_results

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, GALLERY, BENCHMARKS = (
    ROOT / 'configs',
    ROOT / 'configs/gallery',
    ROOT / 'docs/benchmarks',
)

SOURCES = """\
Published scores are those of the authors' [paper](https://arxiv.org/abs/2411.15241) and
[repository](https://github.com/mlvlab/EfficientViM), after the last epoch or iteration; we have not
evaluated the published weights ourselves. MACs are the multiply-accumulates of all convolutions and
matrix products for one image of the given width and height. Mask R-CNN's heads are counted for the
largest number of proposals (1000) and boxes (100) that its test settings allow.

Training memory by images per process. Measured figures are the peak of three training steps, by
`effvim benchmark memory CONFIG --cfg-options train_dataloader.batch_size=N`:"""

SPEED_FORMS = """\
The default form is the network as built; the fastest is the best of four: [fused](docs/speed.md) or
not, channels-last or not. Detectors are fused and randomly initialised; their
NMS gets up to 1,000 boxes of each level."""

# Peak MiB by images per process, on real images, from `effvim benchmark memory`.
MEASURED_MEMORY = {
    'mask_rcnn_effvim_m4': {1: 2776, 2: 4203},
    'retinanet_effvim_m4': {1: 2739, 2: 4846, 4: 7529},
    'semfpn_effvim_m4': {1: 1821, 2: 2503, 4: 3851, 8: 6367},
}
MEASURED_ON = 'a CPU, whole process'
BATCHES = (1, 2, 4, 8, 16)

TASKS = {
    'mask_rcnn': 'instance segmentation, COCO',
    'retinanet': 'detection, COCO',
    'semfpn': 'semantic segmentation, ADE20K',
}


def build(path: Path) -> tuple[Config, Any]:
    """Read a config and build its model on the meta device, without memory for weights."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(str(path))
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model).eval()


def counted_forward(cfg: Config, model: Any) -> tuple[Callable[[], None], str]:
    """The forward pass whose MACs are counted, and its input size in words.

    Detectors: an image of 1333 × 800, padded, or of the size that the config pads to; for Mask
    R-CNN also the heads, on all the proposals and boxes that the test settings allow. Segmentors:
    a training crop.
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


def classifiers() -> Iterator[str]:
    """Table of M1 to M4 as classifiers and as backbones."""
    yield row(
        'variant',
        'parameters, classifier',
        'parameters, backbone',
        'MACs, classifier',
        'published top-1, 300 epochs',
        'published top-1, 450 epochs',
        'published top-1, distilled',
    )
    yield row(*['---'] * 7)
    for arch in ARCHS:
        size = IMAGE_SIZES[arch]
        with torch.device('meta'):
            classifier, backbone = EfficientViMClassifier(arch).eval(), EfficientViM(arch)
            image = torch.empty(1, 3, size, size)
        macs = count_macs(partial(classifier, image))
        yield row(
            arch.upper(),
            f'{count_parameters(classifier):,}',
            f'{count_parameters(backbone):,}',
            f'{macs / 1e6:,.0f} M at {size} × {size}',
            *TOP1[arch],
        )


def models(paths: Iterable[Path]) -> Iterator[str]:
    """Table of all configs."""
    yield row('config', 'parameters', 'MACs', 'published')
    yield row(*['---'] * 4)
    for path in paths:
        cfg, model = build(path)
        run, size = counted_forward(cfg, model)
        header = read_header(path)
        yield row(
            f'`{path.stem}`',
            f'{count_parameters(model):,}',
            f'{count_macs(run) / 1e9:.1f} G at {size}',
            score_of(header, header.score or '–'),
        )


def score_of(header: ConfigHeader, published: str) -> str:
    """A published score and, where there is one, ours."""
    return f'{published}; measured by us: {header.measured}' if header.measured else published


def memory(paths: Iterable[Path]) -> Iterator[str]:
    """Table of training memory of the configs with a published or measured figure."""
    yield row('config', 'device', *BATCHES)
    yield row(*['---'] * (2 + len(BATCHES)))
    for path in paths:
        header = read_header(path)
        if header.memory:
            batch = header.batch or str(load_config(str(path)).train_dataloader.batch_size)
            yield row(
                f'`{path.stem}`',
                header.device,
                *(
                    f'{header.memory}, published' if batch == str(b) else 'not measured'
                    for b in BATCHES
                ),
            )
        if path.stem in MEASURED_MEMORY:
            measured = MEASURED_MEMORY[path.stem]
            yield row(
                f'`{path.stem}`',
                MEASURED_ON,
                *(
                    f'{measured[b]:,} MiB, measured' if b in measured else 'not measured'
                    for b in BATCHES
                ),
            )


def all_models() -> Iterator[str]:
    """The tables of docs/models.md: classifiers, configs, training memory."""
    paths = sorted(CONFIGS.glob('*.py'))
    yield from (*classifiers(), '', *models(paths), '', SOURCES, '', *memory(paths))


def results() -> Iterator[str]:
    """README's table of results: the configs with a published score."""
    yield row('config', 'task', 'parameters', 'published')
    yield row(*['---'] * 4)
    for path in sorted(CONFIGS.glob('*.py')):
        header = read_header(path)
        if header.score:
            _, model = build(path)
            yield row(
                f'`{path.stem}`',
                TASKS[path.stem.partition('_effvim')[0]],
                f'{count_parameters(model) / 1e6:.1f} M',
                score_of(header, header.score.partition(' on ')[0]),
            )


def speed() -> Iterator[str]:
    """README's table of speed: the backbone compared with timm's, and two detectors end to end."""
    backbones = read_results(BENCHMARKS / 'inference.json')
    detectors = read_results(BENCHMARKS / 'rtmdet.json')
    yield row('measured', 'input', 'this project', "timm's port", 'speed-up')
    yield row(*['---'] * 5)
    setting = dict(mode='forward', dtype='float32', batch=1, height=800, width=1344)
    for name, forms in (('default form', ['plain']), ('fastest form of each', None)):
        ours, theirs = (
            fastest(
                case
                for case in backbones['cases']
                if case['network'] == network
                and (forms is None or case['form'] in forms)
                and all(case[key] == value for key, value in setting.items())
            )
            for network in ('m4', 'efficientvim_m4')
        )
        assert ours and theirs
        yield row(
            f'backbone M4, {name}',
            '800 × 1344',
            milliseconds(ours['latency_s']['median']),
            milliseconds(theirs['latency_s']['median']),
            f'{ratio(theirs["seconds"], ours["seconds"])["median"]:.2f}',
        )
    for name, network in (('RetinaNet-M4', 'own'), ('RTMDet-M4', 'rtmdet_effvim_m4')):
        (case,) = (case for case in detectors['cases'] if case['network'] == network)
        yield row(
            f'{name}, image file to boxes',
            f'{case["height"]} × {case["width"]}',
            milliseconds(case['latency_s']['total']['median']),
            '–',
            '–',
        )
    measured = [
        f'{what} {run["date"]}, {device_of(run["machine"])}, {threads_of(run["machine"])}'
        for what, run in (('backbone', backbones), ('detectors', detectors))
    ]
    yield from (
        '',
        'Median latency, batch 1, float32. Measured by us:',
        f'{"; ".join(measured)}.',
        '',
        SPEED_FORMS,
    )


def runtimes() -> Iterator[str]:
    """The backbones in the runtimes of exported files, compared with timm's in the same one."""
    paths = [BENCHMARKS / f'{name}-{arch}.json' for name in RUNTIMES for arch in ('m1', 'm4')]
    runs = [read_results(path) for path in paths]
    yield row(
        'runtime', 'precision', 'backbone', 'input', 'this project', "timm's port", 'speed-up'
    )
    yield row(*['---'] * 7)
    for run in runs:
        cases = {key_of(case): case for case in run['cases']}
        for case in run['cases']:
            theirs = cases.get(('efficientvim_' + case['network'], *key_of(case)[1:]))
            if theirs:
                yield row(
                    case['form'],
                    case['dtype'],
                    case['network'].upper(),
                    f'{case["height"]} × {case["width"]}',
                    milliseconds(case['latency_s']['median']),
                    milliseconds(theirs['latency_s']['median']),
                    f'{ratio(theirs["seconds"], case["seconds"])["median"]:.2f}',
                )
    machine = runs[0]['machine']
    dates = ' and '.join(dict.fromkeys(run['date'] for run in runs))
    yield from (
        '',
        f'{device_of(machine)}, {threads_of(machine)} ({machine["instructions"]}), {dates}. '
        'What is not in the table was not measured.',
    )


def key_of(case: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a case from the others of a benchmark, the network first."""
    return tuple(case[name] for name in ('network', 'form', 'dtype', 'height', 'width'))


def milliseconds(seconds: float) -> str:
    """A duration in words."""
    return f'{number(1e3 * seconds)} ms'


def gallery(links: bool) -> Iterator[str]:
    """Table of the configs of configs/gallery: method, parameters, neck, strides of its maps."""
    yield row('config', 'method', 'parameters', 'neck', 'strides')
    yield row(*['---'] * 5)
    for path in sorted(GALLERY.glob('*.py')):
        method = path.read_text().split('#\n')[1].split('# No published')[0]
        cfg, model = build(path)
        neck = cfg.model.get('neck')
        yield row(
            f'[{path.stem}]({path.name})' if links else f'`{path.stem}`',
            ' '.join(line.removeprefix('# ') for line in method.splitlines()).rstrip('.'),
            f'{count_parameters(model):,}',
            f'`{neck.type}`' if neck else 'none',
            ', '.join(map(str, strides(model))),
        )


def real_data() -> Iterator[str]:
    """Trainings on real datasets, from docs/real_data.json: a table for each dataset."""
    content = json.loads((ROOT / 'docs/real_data.json').read_text('utf-8'))
    machine = content['machine']
    yield f'{device_of(machine)}, {threads_of(machine)} ({machine["instructions"]}).'
    for dataset in dict.fromkeys(run['dataset'] for run in content['runs']):
        runs = [run for run in content['runs'] if run['dataset'] == dataset]
        names = real_metrics(runs[0]['metrics'])
        yield from ['', f'### {dataset}', '']
        yield row(
            'model', 'resized to fit', 'time', 'epochs', 'seeds', *(title for title, _ in names)
        )
        yield row(*['---'] * (5 + len(names)))
        for model in dict.fromkeys(run['model'] for run in runs):
            own = [run for run in runs if run['model'] == model]
            seconds = [run['seconds'] for run in own]
            yield row(
                f'`{model}`',
                ' × '.join(map(str, own[0]['image_scale'])),
                f'{np.mean(seconds) / 60:.1f} min',
                extent([run['epochs'] for run in own]),
                ', '.join(str(run['seed']) for run in own),
                *(spread([run['metrics'][name] for run in own]) for _, name in names),
            )


def real_metrics(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Titles and names of the metrics that `real_data` shows."""
    if 'mIoU' in metrics:
        return [(name, name) for name in ('mIoU', 'mAcc', 'aAcc')] + [
            (name, name) for name in metrics if name.startswith('IoU.')
        ]
    kind = 'segm' if 'coco/segm_mAP' in metrics else 'bbox'
    title = {'segm': 'mask AP', 'bbox': 'AP'}[kind]
    names = [
        (f'{title}{suffix}', f'coco/{kind}_mAP{key}')
        for suffix, key in (('', ''), ('50', '_50'), (' s', '_s'), (' m', '_m'), (' l', '_l'))
    ]
    start, end = f'coco/{kind}_', '_precision'
    classes = [name for name in metrics if name.startswith(start) and name.endswith(end)]
    if len(classes) > 1:
        names += [(name.removeprefix(start).removesuffix(end), name) for name in classes]
    return names


def extent(numbers: Sequence[int]) -> str:
    """A number, or the smallest and the largest of several that differ."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f'{low} to {high}'


def spread(values: Sequence[float]) -> str:
    """A mean, and the standard deviation where there are several values; – for COCO's -1."""
    if min(values) < 0:
        return '–'
    digits = 1 if max(values) > 1 else 3
    mean = f'{np.mean(values):.{digits}f}'
    return f'{mean} ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else mean


def strides(model: Any) -> list[int]:
    """Strides of the maps that the heads of a model get."""
    side = 512
    maps = model.extract_feat(torch.empty(1, 3, side, side, device='meta'))
    return [side // x.shape[3] for x in maps]


class Section(NamedTuple):
    """Generated lines between two markers of a page."""

    page: Path
    name: str
    lines: Callable[[], Iterable[str]]

    def insert(self, text: str, lines: Iterable[str]) -> str:
        """The page's text with other lines between the markers.

        Raises:
            ValueError: the markers are absent.
        """
        begin = f'<!-- {self.name}: written by make tables -->'
        end = f'<!-- {self.name}: end -->'
        before, has_begin, rest = text.partition(begin)
        _, has_end, after = rest.partition(end)
        if not has_begin or not has_end:
            raise ValueError(f'{self.page} needs the lines {begin} and {end}')
        return '\n'.join([f'{before}{begin}', '', *lines, '', f'{end}{after}'])


SECTIONS = (
    Section(ROOT / 'README.md', 'results', results),
    Section(ROOT / 'README.md', 'speed', speed),
    Section(ROOT / 'docs/models.md', 'tables', all_models),
    Section(ROOT / 'docs/gallery.md', 'tables', partial(gallery, links=False)),
    Section(ROOT / 'docs/real_data.md', 'tables', real_data),
    Section(ROOT / 'docs/deployment.md', 'runtimes', runtimes),
    Section(GALLERY / 'README.md', 'tables', partial(gallery, links=True)),
)


def main() -> None:
    """Write the tables into their pages."""
    for section in SECTIONS:
        lines = list(section.lines())
        text = section.page.read_text('utf-8')
        write_atomic(section.page, section.insert(text, lines).encode())
        console.say(f'{section.page.relative_to(ROOT)}: {section.name}')


if __name__ == '__main__':
    main()
