"""The HTML report of an evaluation: one file that holds everything, nothing is fetched."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from PIL import Image

from backbone import EfficientViM
from effvim.checkpoints.versions import versions
from effvim.config.run_spec import RunSpec
from effvim.evaluation import error_analysis, figures
from effvim.evaluation.features import capture_features
from effvim.images import read_image
from effvim.visualization.comparison import draw_comparison

TEMPLATE = Path(__file__).with_name('report.html.j2')

MAX_VALUE = 200  # characters of an option that are shown

KINDS = {'bbox': 'boxes', 'segm': 'masks'}


@dataclasses.dataclass
class Evaluation:
    """What the report is about.

    Attributes:
        spec: the run that was evaluated.
        checkpoint: its checkpoint or exported file.
        model: the network, with `test_step`.
        dataset: the test set.
        segments: whether the network is a segmentor.
        metrics: by name.
        comparisons: of each image of the dataset with its ground truth.
        precision: by kind, bbox or segm: COCO's array T R K A M, see `EffViMCocoMetric`.
        iou_thresholds: along its first axis.
        samples: number of images that are shown.
        mistakes: number of mistakes that are shown.
        score_thr: objects that score lower are neither drawn nor compared.
    """

    spec: RunSpec
    checkpoint: str
    model: Any
    dataset: Any
    segments: bool
    metrics: Mapping[str, float]
    comparisons: Sequence[error_analysis.Comparison]
    precision: Mapping[str, np.ndarray]
    iou_thresholds: Sequence[float]
    samples: int = 8
    mistakes: int = 12
    score_thr: float = 0.3

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self.spec.classes

    @torch.no_grad()
    def sample(self, index: int) -> Any:
        """The data sample of an image, with ground truth and prediction."""
        return self.model.test_step(pseudo_collate([self.dataset[index]]))[0]


@dataclasses.dataclass
class Plot:
    """A figure or image of the report."""

    id: str
    content: Figure | Image.Image
    caption: str = ''


@dataclasses.dataclass
class Table:
    """A table of the report; the first cell of each row is its name."""

    id: str
    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    is_numeric: bool = True


@dataclasses.dataclass
class Section:
    """A section of the report; a table below plots is folded."""

    id: str
    heading: str
    plots: Sequence[Plot] = ()
    table: Table | None = None


def report_page(evaluation: Evaluation) -> str:
    """The report as HTML."""
    title = f'{evaluation.spec.config}: {Path(evaluation.checkpoint).name}'
    return render(title, run_table(evaluation), list(sections(evaluation)))


def render(title: str, run: Table, sections: Sequence[Section]) -> str:
    """The HTML page of a report's sections."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters['png'] = png
    template = environment.from_string(TEMPLATE.read_text('utf-8'))
    return template.render(title=title, run=run, sections=sections) + '\n'


def png(content: Figure | Image.Image) -> str:
    """A figure or image as PNG in base64."""
    buffer = io.BytesIO()
    if isinstance(content, Figure):
        content.savefig(buffer, format='png', dpi=130)
    else:
        content.save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def run_table(evaluation: Evaluation) -> Table:
    """What was evaluated, on what data, with which versions."""
    spec, classes = evaluation.spec, evaluation.classes
    names = ', '.join(classes[:8]) + (' …' if len(classes) > 8 else '')
    synthetic = ' (synthetic dataset: it shows that training learns, nothing more)'
    rows = {
        'checkpoint': evaluation.checkpoint,
        'config': ' + '.join([spec.config, *spec.presets]),
        'config overrides': _assignments(spec.options) or 'none',
        'fitted to the data': _assignments(spec.fitted),
        'images': f'{len(evaluation.dataset)}' + synthetic * ('mini' in spec.presets),
        'classes': f'{len(classes)}: {names}',
        'versions': 'Python ' + ', '.join(versions().values()),
    }
    return Table('run', [row for row in rows.items() if row[1]], is_numeric=False)


def _assignments(values: Mapping[str, Any]) -> str:
    """Keys and values as text, without whole pipelines."""
    return ', '.join(
        f'{key}={"…" if len(text := str(value)) > MAX_VALUE else text}'
        for key, value in values.items()
    )


def sections(evaluation: Evaluation) -> Iterator[Section]:
    """The sections of the report, in the order in which they are read."""
    yield metrics_section(evaluation.metrics)
    if evaluation.segments:
        yield class_iou_section(evaluation)
    else:
        for kind in evaluation.precision:
            yield from precision_sections(evaluation, kind)
    yield confusion_section(evaluation)
    yield samples_section(evaluation)
    yield mistakes_section(evaluation)
    yield from feature_sections(evaluation)


def _number(value: float) -> str:
    """A metric as text; -1 and NaN stand for no value."""
    return '–' if value == -1 or np.isnan(value) else f'{value:.4f}'


def metrics_section(metrics: Mapping[str, float]) -> Section:
    """The main metrics, without those of single classes."""
    rows = [
        (name, _number(value))
        for name, value in metrics.items()
        if '.' not in name and not name.endswith('_precision')
    ]
    return Section('metrics', 'Metrics', table=Table('table-metrics', rows))


def precision_sections(evaluation: Evaluation, kind: str) -> Iterable[Section]:
    """Precision over recall, and the AP of each class; `kind` is bbox or segm."""
    precision = evaluation.precision[kind]
    curves = Plot(
        f'pr-{kind}',
        figures.precision_recall(precision, evaluation.iou_thresholds),
        'Mean over classes. The area below a curve is its AP.',
    )
    ap, ap50 = figures.class_ap(precision), figures.class_ap(precision[:1])
    bars = Plot(
        f'ap-{kind}', figures.class_bars(evaluation.classes, ap, 'AP', 1), 'AP of each class.'
    )
    rows = [(name, _number(a), _number(b)) for name, a, b in zip(evaluation.classes, ap, ap50)]
    return [
        Section(f'curves-{kind}', f'Precision and recall, {KINDS[kind]}', [curves]),
        Section(
            f'classes-{kind}',
            f'Classes, {KINDS[kind]}',
            [bars],
            Table(f'table-{kind}', rows, ('class', 'AP', 'AP50')),
        ),
    ]


def class_iou_section(evaluation: Evaluation) -> Section:
    """The IoU of each class of a segmentor."""
    classes, metrics = evaluation.classes, evaluation.metrics
    iou = np.array([metrics.get(f'IoU.{name}', np.nan) for name in classes])
    bars = Plot('iou', figures.class_bars(classes, iou, 'IoU, %', 100), 'IoU of each class.')
    rows = [(name, _number(value)) for name, value in zip(classes, iou)]
    table = Table('table-iou', rows, ('class', 'IoU, %'))
    return Section('classes-iou', 'Classes', [bars], table)


def confusion_section(evaluation: Evaluation) -> Section:
    """Which classes are confused."""
    size = len(evaluation.classes) + (not evaluation.segments)
    counts = error_analysis.confusion_matrix(evaluation.comparisons, size)
    caption = (
        'Rows are true classes, in per cent of their pixels.'
        if evaluation.segments
        else f'Rows are true classes. Predictions of score {evaluation.score_thr} or more, matched '
        f'at IoU {error_analysis.IOU}. Column “background”: missed objects; row “background”: '
        f'predictions where there is no such object, and duplicates.'
    )
    figure = figures.confusion_matrix(counts, [*evaluation.classes, 'background'])
    return Section('confusion-matrix', 'Confusion matrix', [Plot('confusion', figure, caption)])


def samples_section(evaluation: Evaluation) -> Section:
    """Predictions and ground truth of images spread over the dataset."""
    indices = np.unique(np.linspace(0, len(evaluation.dataset) - 1, evaluation.samples).round())
    plots = []
    for i in indices.astype(int).tolist():
        sample = evaluation.sample(i)
        drawn = draw_comparison(sample, evaluation.classes, evaluation.score_thr)
        plots.append(Plot(f'sample-{i}', drawn, Path(sample.img_path).name))
    return Section('samples', 'Ground truth and predictions', plots)


def mistakes_section(evaluation: Evaluation) -> Section:
    """The mistakes that the network made with the highest scores."""
    draw = _wrong_pixels if evaluation.segments else _wrong_objects
    return Section('worst-mistakes', 'The most confident mistakes', draw(evaluation))


def _wrong_objects(evaluation: Evaluation) -> list[Plot]:
    cases = []
    for i, mistake in error_analysis.worst_mistakes(evaluation.comparisons, evaluation.mistakes):
        sample = evaluation.sample(i)
        name = Path(sample.img_path).name
        cases.append((name, read_image(sample.img_path), sample.gt_instances.cpu(), mistake))
    if not cases:
        return []
    nothing = f'nothing at IoU {error_analysis.IOU} or more'
    figure = figures.wrong_objects(cases, [*evaluation.classes, nothing])
    caption = 'Predictions are solid, the ground truth nearby is dashed. Highest-scoring first.'
    return [Plot('mistakes', figure, caption)]


def _wrong_pixels(evaluation: Evaluation) -> list[Plot]:
    cases = []
    limit = evaluation.mistakes // 2  # each takes two panels
    for i, mistake in error_analysis.worst_mistakes(evaluation.comparisons, limit):
        sample = evaluation.sample(i)
        true, predicted = (p.data[0].cpu() for p in (sample.gt_sem_seg, sample.pred_sem_seg))
        probability = sample.seg_logits.data.cpu().float().softmax(0).amax(0)
        probability[(true == predicted) | (true == 255)] = np.nan
        name = Path(sample.img_path).name
        cases.append((name, read_image(sample.img_path), probability.numpy(), mistake))
    if not cases:
        return []
    caption = 'The images with the most wrong pixels, weighted by their probability.'
    return [Plot('mistakes', figures.wrong_pixels(cases), caption)]


def feature_sections(evaluation: Evaluation) -> Iterable[Section]:
    """Feature maps and the weights of the hidden states for the first image; none if exported."""
    model = evaluation.model
    backbone = next((m for m in model.modules() if isinstance(m, EfficientViM)), None)
    if backbone is None:
        return []
    data = model.data_preprocessor(pseudo_collate([evaluation.dataset[0]]), False)
    stages, _ = capture_features(backbone, lambda: backbone(data['inputs']))
    sample = data['data_samples'][0]
    height, width = sample.img_shape[:2]
    image = Image.fromarray(read_image(sample.img_path)).resize((width, height))
    seen = figures.NetworkInput(np.asarray(image), tuple(data['inputs'].shape[2:]))
    maps = Plot(
        'feature-maps',
        figures.feature_maps(stages, seen),
        'First image, before the neck: the mean over channels, and the four channels that vary '
        'most.',
    )
    selections = Plot(
        'attention',
        figures.selections(stages, seen),
        'A ⊙ B̂ of the last HSM-SSD of each stage: the weight with which a position enters a hidden '
        'state; red adds, blue subtracts. The five states of each stage with the largest weights.',
    )
    return [
        Section('features', 'Feature maps', [maps]),
        Section('states', 'What enters the hidden states', [selections]),
    ]
