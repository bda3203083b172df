"""One HTML page about an evaluation, `tools/test.py --report`: all in the file, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine import dist
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from backbone import EfficientViM

from . import checkpoint, config, mistakes, pictures, plots, report, report_plots
from .features import look_inside

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
figure { margin: 1em 0 } img { max-width: 100%; height: auto } figcaption { color: #555 }
table { border-collapse: collapse } td, th { padding: .1em .8em .1em 0; text-align: left }
.numbers td { text-align: right; font-variant-numeric: tabular-nums }
nav a { margin-right: 1em }
"""


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes `report.html` after a test.

    Args:
        folder: where to.
        checkpoint: the file that is tested, for the heading.
        samples: pictures that are shown beside the truth.
        limit: mistakes that are shown.
        score_thr: objects of lower score, 0 to 1, are neither drawn nor compared with the truth.
    """

    priority = 'LOWEST'

    def __init__(
        self, folder: str, checkpoint: str, samples: int = 8, limit: int = 12,
        score_thr: float = 0.3,
    ) -> None:  # fmt: skip
        self.path, self.checkpoint = Path(folder) / 'report.html', checkpoint
        self.samples, self.limit, self.score_thr = samples, limit, score_thr
        self.records: list[mistakes.Record] = []

    def before_test_epoch(self, runner: Any) -> None:
        """Begin anew."""
        self.records = []

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Compare this batch with its truth."""
        number = len(runner.about['classes'])
        for sample in outputs:
            self.records.append(
                mistakes.of_pixels(sample, number) if 'pred_sem_seg' in sample
                else mistakes.of_objects(sample, number, self.score_thr))

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the page, in the first process."""
        dataset = runner.test_dataloader.dataset
        records = dist.collect_results(
            self.records, len(dataset), tmpdir=str(Path(runner.work_dir, 'collected')))
        if records is not None:
            page = Page(runner, self, records, report.numbers(metrics or {}))
            checkpoint.write_whole(self.path, page.text().encode())


class Page:
    """The page's parts, in the order in which they are read."""

    def __init__(
        self, runner: Any, hook: ReportHook, records: list[mistakes.Record],
        metrics: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.about, self.hook, self.records, self.metrics = runner.about, hook, records, metrics
        self.dataset = runner.test_dataloader.dataset
        self.model = getattr(runner.model, 'module', runner.model)
        self.classes: list[str] = list(runner.about['classes'])
        self.metric_objects = runner.test_evaluator.metrics
        self.segments = config.is_segmentor(runner.cfg)
        self.parts: list[tuple[str, str, str]] = []  # id, heading, HTML

    def text(self) -> str:
        """The whole file."""
        self.add('numbers', 'Numbers', _table(
            ((name, '–' if v == -1 else f'{v:.4f}') for name, v in self.metrics.items()
             if '.' not in name), 'table-numbers'))
        for kind, precision in () if self.segments else self.precision():
            self.curves(kind, precision)
        if self.segments:
            self.class_iou()
        self.confusion()
        self.beside_truth()
        self.surest()
        self.inside()
        title = html.escape(f'{self.about["config"]}: {Path(self.hook.checkpoint).name}')
        links = ''.join(f'<a href="#{i}">{html.escape(h)}</a>' for i, h, _ in self.parts)
        body = '\n'.join(f'<section id="{i}"><h2>{html.escape(h)}</h2>\n{content}</section>'
                         for i, h, content in self.parts)
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
                f'<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n'
                f'{self.run()}\n<nav>{links}</nav>\n{body}\n</body></html>\n')

    def add(self, name: str, heading: str, *content: str) -> None:
        """One more part, its id being `name`."""
        self.parts.append((name, heading, '\n'.join(content)))

    def run(self) -> str:
        """What was tested, on what, with what."""
        about = self.about
        names = ', '.join(self.classes[:8]) + (' …' if len(self.classes) > 8 else '')
        drawn = ' (drawn scenes: they show that training learns, nothing more)'
        return _table({
            'checkpoint': self.hook.checkpoint,
            'config': ' '.join([about['config'], *(f'+ {name}' for name in about['overlays'])]),
            'changed keys': ', '.join(f'{k}={v}' for k, v in about['options'].items()) or 'none',
            **({'fitted to the data': ', '.join(f'{k}={v}' for k, v in about['fitted'].items())}
               if about.get('fitted') else {}),
            'pictures': f'{len(self.dataset)}' + drawn * ('mini' in about['overlays']),
            'classes': f'{len(self.classes)}: {names}',
            'versions': 'Python ' + ', '.join(checkpoint.versions().values()),
        }.items(), 'run')

    def precision(self) -> Iterable[tuple[str, np.ndarray]]:
        """COCO's arrays by kind, bbox or segm, of metrics that keep them."""
        for metric in self.metric_objects:
            yield from getattr(metric, 'precision', {}).items()

    def curves(self, kind: str, precision: np.ndarray) -> None:
        """Precision over recall, and the AP of each class."""
        what = {'bbox': 'boxes', 'segm': 'masks'}[kind]
        thresholds = self.metric_objects[0].iou_thrs
        self.add(f'curves-{kind}', f'Precision and recall, {what}', _figure(
            f'pr-{kind}', report_plots.precision_recall(precision, thresholds),
            'Mean over classes. The area below a curve is its AP.'))
        ap = report_plots.class_ap(precision)
        fifty = report_plots.class_ap(precision[:1])
        rows = ((name, f'{ap[i]:.4f}', f'{fifty[i]:.4f}') for i, name in enumerate(self.classes))
        self.add(f'classes-{kind}', f'Classes, {what}', _figure(
            f'ap-{kind}', report_plots.bars(self.classes, ap, 'AP', 1), 'AP of each class.'),
            _details(_table(rows, f'table-{kind}', ('class', 'AP', 'AP50'))))

    def class_iou(self) -> None:
        """The IoU of each class."""
        iou = np.array([self.metrics.get(f'IoU.{name}', np.nan) for name in self.classes])
        rows = ((name, f'{value:.4f}') for name, value in zip(self.classes, iou))
        self.add('classes-iou', 'Classes', _figure(
            'iou', report_plots.bars(self.classes, iou, 'IoU, %', 100), 'IoU of each class.'),
            _details(_table(rows, 'table-iou', ('class', 'IoU, %'))))

    def confusion(self) -> None:
        """Which class is taken for which."""
        size = len(self.classes) + (not self.segments)
        counts = mistakes.confusion(self.records, size)
        caption = (
            'Rows are true classes, in per cent of their pixels.' if self.segments else
            f'Rows are true classes. Found objects of score {self.hook.score_thr} or more, matched '
            f'at IoU {mistakes.IOU}; “nothing” as found: missed; as truth: found where there is no '
            f'such object, or once more.')
        self.add('mistaken', 'What is taken for what', _figure(
            'confusion', report_plots.confusion(counts, [*self.classes, 'nothing']), caption))

    @torch.no_grad()
    def sample(self, index: int) -> Any:
        """Picture number `index` with truth and prediction."""
        return self.model.test_step(pseudo_collate([self.dataset[index]]))[0]

    def beside_truth(self) -> None:
        """Pictures spread over the data set."""
        numbers = np.unique(np.linspace(0, len(self.dataset) - 1, self.hook.samples).round())
        self.add('samples', 'Predictions beside the truth', *(
            _figure(f'sample-{int(i)}', plots.beside_truth(
                self.sample(int(i)), self.classes, self.hook.score_thr))
            for i in numbers))

    def surest(self) -> None:
        """The most confident mistakes."""
        if self.segments:
            shown = []
            for i, mistake in mistakes.surest(self.records, self.hook.limit // 2):
                sample = self.sample(i)
                truth, found = (p.data[0].cpu() for p in (sample.gt_sem_seg, sample.pred_sem_seg))
                sureness = sample.seg_logits.data.cpu().float().softmax(0).amax(0)
                sureness[(truth == found) | (truth == 255)] = np.nan
                shown.append((pictures.read(sample.img_path), sureness.numpy(), mistake))
            drawn = report_plots.wrong_pixels(shown) if shown else None
            caption = 'The pictures where most is wrong, pixels weighed by their probability.'
        else:
            names = [*self.classes, 'nothing']
            cuts = []
            for i, mistake in mistakes.surest(self.records, self.hook.limit):
                sample = self.sample(i)
                cuts.append((pictures.read(sample.img_path), sample.gt_instances.cpu(), mistake))
            drawn = report_plots.wrong_objects(cuts, names) if cuts else None
            caption = 'Found: solid; the truth nearby: dashed. The surest first.'
        self.add('surest', 'The most confident mistakes', _figure('mistakes', drawn, caption)
                 if drawn else '<p>None.</p>')

    def inside(self) -> None:
        """Feature maps and what the hidden states take in, of the first picture."""
        backbone = next((m for m in self.model.modules() if isinstance(m, EfficientViM)), None)
        if backbone is None:
            return
        data = self.model.data_preprocessor(pseudo_collate([self.dataset[0]]), False)
        stages, _ = look_inside(backbone, lambda: backbone(data['inputs']))
        height, width = data['data_samples'][0].img_shape[:2]
        picture = Image.fromarray(pictures.read(data['data_samples'][0].img_path))
        seen = report_plots.Seen(
            np.asarray(picture.resize((width, height))), tuple(data['inputs'].shape[2:]))
        self.add('features', 'Feature maps', _figure(
            'feature-maps', report_plots.feature_maps(stages, seen),
            'Of the first picture, before the neck: the mean over channels, and the four channels '
            'that vary most.'))
        self.add('states', 'What the hidden states take in', _figure(
            'attention', report_plots.attention(stages, seen),
            'A ⊙ B̂ of the last HSM-SSD of each stage: with which weight a position enters a hidden '
            'state; red adds, blue subtracts. The five states of each stage that take in most.'))


def _figure(name: str, figure: Figure, caption: str = '') -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return (f'<figure><img id="{name}" alt="{text or name}" src="data:image/png;base64,{data}">'
            f'<figcaption>{text}</figcaption></figure>')


def _table(rows: Iterable[Sequence[str]], name: str, head: Sequence[str] = ()) -> str:
    """Each row's first cell names it; a table called "run" is of text, others are of numbers."""
    lines = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head)] if head else []
    for first, *rest in rows:
        lines.append(f'<th>{html.escape(first)}</th>'
                     + ''.join(f'<td>{html.escape(cell)}</td>' for cell in rest))
    kind = '' if name == 'run' else ' class="numbers"'
    return f'<table id="{name}"{kind}>' + '\n'.join(f'<tr>{x}</tr>' for x in lines) + '</table>'


def _details(content: str) -> str:
    return f'<details><summary>as numbers</summary>{content}</details>'
