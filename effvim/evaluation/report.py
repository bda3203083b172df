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
from mmengine.dataset import pseudo_collate
from PIL import Image

from backbone import EfficientViM
from effvim.checkpoints.versions import versions
from effvim.config.structure import is_segmentor
from effvim.engine.hooks.report_hook import EffViMReportHook
from effvim.evaluation import error_analysis, figures
from effvim.evaluation.features import look_inside
from effvim.images import read_image
from effvim.visualization.rendering import draw_comparison

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
figure { margin: 1em 0 } img { max-width: 100%; height: auto } figcaption { color: #555 }
table { border-collapse: collapse } td, th { padding: .1em .8em .1em 0; text-align: left }
.numbers td { text-align: right; font-variant-numeric: tabular-nums }
nav a { margin-right: 1em }
"""


class Page:
    """The page's parts, in the order in which they are read."""

    def __init__(
        self,
        runner: Any,
        hook: EffViMReportHook,
        records: list[error_analysis.Record],
        metrics: Mapping[str, float],
    ) -> None:
        self.about, self.hook, self.records, self.metrics = runner.about, hook, records, metrics
        self.dataset = runner.test_dataloader.dataset
        self.model = getattr(runner.model, 'module', runner.model)
        self.classes: list[str] = list(runner.about['classes'])
        self.metric_objects = runner.test_evaluator.metrics
        self.segments = is_segmentor(runner.cfg)
        self.parts: list[tuple[str, str, str]] = []  # id, heading, HTML

    def text(self) -> str:
        """The whole file."""
        self.add(
            'numbers',
            'Numbers',
            _table(
                (
                    (name, '–' if v == -1 else f'{v:.4f}')
                    for name, v in self.metrics.items()
                    if '.' not in name
                ),
                'table-numbers',
            ),
        )
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
        body = '\n'.join(
            f'<section id="{i}"><h2>{html.escape(h)}</h2>\n{content}</section>'
            for i, h, content in self.parts
        )
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n'
            f'{self.run()}\n<nav>{links}</nav>\n{body}\n</body></html>\n'
        )

    def add(self, name: str, heading: str, *content: str) -> None:
        """One more part, its id being `name`."""
        self.parts.append((name, heading, '\n'.join(content)))

    def run(self) -> str:
        """What was tested, on what, with what."""
        about = self.about
        names = ', '.join(self.classes[:8]) + (' …' if len(self.classes) > 8 else '')
        drawn = ' (drawn scenes: they show that training learns, nothing more)'
        return _table(
            {
                'checkpoint': self.hook.checkpoint,
                'config': ' '.join([about['config'], *(f'+ {name}' for name in about['overlays'])]),
                'changed keys': ', '.join(f'{k}={v}' for k, v in about['options'].items())
                or 'none',
                **(
                    {
                        'fitted to the data': ', '.join(
                            f'{k}={v}' for k, v in about['fitted'].items()
                        )
                    }
                    if about.get('fitted')
                    else {}
                ),
                'pictures': f'{len(self.dataset)}' + drawn * ('mini' in about['overlays']),
                'classes': f'{len(self.classes)}: {names}',
                'versions': 'Python ' + ', '.join(versions().values()),
            }.items(),
            'run',
        )

    def precision(self) -> Iterable[tuple[str, np.ndarray]]:
        """COCO's arrays by kind, bbox or segm, of metrics that keep them."""
        for metric in self.metric_objects:
            yield from getattr(metric, 'precision', {}).items()

    def curves(self, kind: str, precision: np.ndarray) -> None:
        """Precision over recall, and the AP of each class."""
        what = {'bbox': 'boxes', 'segm': 'masks'}[kind]
        thresholds = self.metric_objects[0].iou_thrs
        self.add(
            f'curves-{kind}',
            f'Precision and recall, {what}',
            _figure(
                f'pr-{kind}',
                figures.precision_recall(precision, thresholds),
                'Mean over classes. The area below a curve is its AP.',
            ),
        )
        ap = figures.class_ap(precision)
        fifty = figures.class_ap(precision[:1])
        rows = ((name, f'{ap[i]:.4f}', f'{fifty[i]:.4f}') for i, name in enumerate(self.classes))
        self.add(
            f'classes-{kind}',
            f'Classes, {what}',
            _figure(f'ap-{kind}', figures.bars(self.classes, ap, 'AP', 1), 'AP of each class.'),
            _details(_table(rows, f'table-{kind}', ('class', 'AP', 'AP50'))),
        )

    def class_iou(self) -> None:
        """The IoU of each class."""
        iou = np.array([self.metrics.get(f'IoU.{name}', np.nan) for name in self.classes])
        rows = ((name, f'{value:.4f}') for name, value in zip(self.classes, iou))
        self.add(
            'classes-iou',
            'Classes',
            _figure('iou', figures.bars(self.classes, iou, 'IoU, %', 100), 'IoU of each class.'),
            _details(_table(rows, 'table-iou', ('class', 'IoU, %'))),
        )

    def confusion(self) -> None:
        """Which class is taken for which."""
        size = len(self.classes) + (not self.segments)
        counts = error_analysis.confusion(self.records, size)
        caption = (
            'Rows are true classes, in per cent of their pixels.'
            if self.segments
            else f'Rows are true classes. Found objects of score {self.hook.score_thr} or more, matched '
            f'at IoU {error_analysis.IOU}; “nothing” as found: missed; as truth: found where there is no '
            f'such object, or once more.'
        )
        self.add(
            'mistaken',
            'What is taken for what',
            _figure('confusion', figures.confusion(counts, [*self.classes, 'nothing']), caption),
        )

    @torch.no_grad()
    def sample(self, index: int) -> Any:
        """Picture number `index` with truth and prediction."""
        return self.model.test_step(pseudo_collate([self.dataset[index]]))[0]

    def beside_truth(self) -> None:
        """Pictures spread over the data set."""
        numbers = np.unique(np.linspace(0, len(self.dataset) - 1, self.hook.samples).round())
        self.add(
            'samples',
            'Predictions beside the truth',
            *(
                _figure(
                    f'sample-{int(i)}',
                    draw_comparison(self.sample(int(i)), self.classes, self.hook.score_thr),
                )
                for i in numbers
            ),
        )

    def surest(self) -> None:
        """The most confident mistakes."""
        if self.segments:
            shown = []
            for i, mistake in error_analysis.surest(self.records, self.hook.limit // 2):
                sample = self.sample(i)
                truth, found = (p.data[0].cpu() for p in (sample.gt_sem_seg, sample.pred_sem_seg))
                sureness = sample.seg_logits.data.cpu().float().softmax(0).amax(0)
                sureness[(truth == found) | (truth == 255)] = np.nan
                shown.append((read_image(sample.img_path), sureness.numpy(), mistake))
            drawn = figures.wrong_pixels(shown) if shown else None
            caption = 'The pictures where most is wrong, pixels weighed by their probability.'
        else:
            names = [*self.classes, 'nothing']
            cuts = []
            for i, mistake in error_analysis.surest(self.records, self.hook.limit):
                sample = self.sample(i)
                cuts.append((read_image(sample.img_path), sample.gt_instances.cpu(), mistake))
            drawn = figures.wrong_objects(cuts, names) if cuts else None
            caption = 'Found: solid; the truth nearby: dashed. The surest first.'
        self.add(
            'surest',
            'The most confident mistakes',
            _figure('mistakes', drawn, caption) if drawn else '<p>None.</p>',
        )

    def inside(self) -> None:
        """Feature maps and what the hidden states take in, of the first picture."""
        backbone = next((m for m in self.model.modules() if isinstance(m, EfficientViM)), None)
        if backbone is None:
            return
        data = self.model.data_preprocessor(pseudo_collate([self.dataset[0]]), False)
        stages, _ = look_inside(backbone, lambda: backbone(data['inputs']))
        height, width = data['data_samples'][0].img_shape[:2]
        picture = Image.fromarray(read_image(data['data_samples'][0].img_path))
        seen = figures.Seen(
            np.asarray(picture.resize((width, height))), tuple(data['inputs'].shape[2:])
        )
        self.add(
            'features',
            'Feature maps',
            _figure(
                'feature-maps',
                figures.feature_maps(stages, seen),
                'Of the first picture, before the neck: the mean over channels, and the four channels '
                'that vary most.',
            ),
        )
        self.add(
            'states',
            'What the hidden states take in',
            _figure(
                'attention',
                figures.attention(stages, seen),
                'A ⊙ B̂ of the last HSM-SSD of each stage: with which weight a position enters a hidden '
                'state; red adds, blue subtracts. The five states of each stage that take in most.',
            ),
        )


def _figure(name: str, figure: Figure, caption: str = '') -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return (
        f'<figure><img id="{name}" alt="{text or name}" src="data:image/png;base64,{data}">'
        f'<figcaption>{text}</figcaption></figure>'
    )


def _table(rows: Iterable[Sequence[str]], name: str, head: Sequence[str] = ()) -> str:
    """Each row's first cell names it; a table called "run" is of text, others are of numbers."""
    lines = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head)] if head else []
    for first, *rest in rows:
        lines.append(
            f'<th>{html.escape(first)}</th>'
            + ''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)
        )
    kind = '' if name == 'run' else ' class="numbers"'
    return f'<table id="{name}"{kind}>' + '\n'.join(f'<tr>{x}</tr>' for x in lines) + '</table>'


def _details(content: str) -> str:
    return f'<details><summary>as numbers</summary>{content}</details>'
