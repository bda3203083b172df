"""The HTML report: self-contained, every plot there, every number equal to an independent count."""

import base64
import contextlib
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from backbone import EfficientViM, feature_info
from effvim.datasets import scenes, synthetic
from effvim.evaluation import error_analysis, figures
from effvim.evaluation import report as report_module
from effvim.evaluation.features import capture_features
from tests.helpers.cli import run_command
from tests.helpers.networks import randomised
from tests.helpers.runs import call

ALWAYS = {'confusion', 'mistakes', 'feature-maps', 'attention', 'sample-0', 'sample-4'}
OWN = {
    'retinanet': {'pr-bbox', 'ap-bbox'},
    'semfpn': {'iou'},
    'mask_rcnn': {'pr-bbox', 'ap-bbox', 'pr-segm', 'ap-segm'},
}


def test_every_plot_is_there_and_can_be_seen(report):
    assert report.page.images.keys() >= ALWAYS | OWN[report.run.kind]
    for name, source in report.page.images.items():
        kind, _, data = source.partition('base64,')
        assert kind == 'data:image/png;', name
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            pixels = np.asarray(image.convert('RGB'))
        assert min(pixels.shape[:2]) >= 100 and pixels.std() > 5, name


def test_nothing_refers_outside(report):
    page = report.page
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form'} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ('src', 'href', 'srcset', 'data', 'action', 'background', 'poster'):
            assert value.startswith(('data:', '#')), (tag, name)
            assert not value.startswith('#') or value[1:] in page.ids
        assert not name.startswith('on')
        assert name == 'src' or '//' not in value
    assert page.style and not re.search(r'url\(|@import', page.style)
    assert list((report.folder / 'report').iterdir()) == [report.folder / 'report/report.html']


def test_run_and_metrics_are_stated(report):
    tables = [row for table in report.page.tables.values() for row in table]
    about = {row[0]: row[1] for row in tables if len(row) == 2}
    assert about['config'] == f'{report.run.config.name} + from_scratch'
    assert about['checkpoint'] == str(report.run.checkpoint)
    assert (
        about['images'] == '5' and f'torch {torch.__version__.split("+")[0]}' in (about['versions'])
    )
    main = {k: v for k, v in report.numbers.items() if '.' not in k}
    assert len(main) >= 3
    for name, value in main.items():
        assert about[name] == ('–' if value == -1 else f'{value:.4f}')


def pycocotools_precision(report, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(report.folder / 'ground_truth.json'))
        results = json.loads((report.folder / f'test.{kind}.json').read_text())
        for one in results if kind == 'segm' else ():
            one.pop('bbox', None)
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision'][:, :, :, 0, -1]  # T R K


def assert_close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual, float), expected, atol=1e-9)


@pytest.mark.parametrize(
    'report, kind',
    [('retinanet', 'bbox'), ('mask_rcnn', 'bbox'), ('mask_rcnn', 'segm')],
    indirect=['report'],
)
def test_curves_and_bars_equal_pycocotools(report, kind):
    precision = pycocotools_precision(report, kind)
    present = (precision > -1).all((0, 1))
    assert present.tolist() == [True, True, False]
    curves = precision[:, :, present].mean(2)  # T R
    assert (curves[[0, 5, 8]].mean(1) > 0.001).all()
    lines = report.figures[f'pr-{kind}'].axes[0].lines
    drawn = [curves[0], curves[5], curves[8], curves.mean(0)]
    for line, expected in zip(lines, drawn, strict=True):
        assert_close(line.get_xdata(), np.arange(101) / 100)
        assert_close(line.get_ydata(), expected)
        assert line.get_label().endswith(f'AP {expected.mean():.3f}')
    ap = precision.mean((0, 1))
    rows = report.page.tables[f'table-{kind}']
    assert rows == [
        ['class', 'AP', 'AP50'],
        *(
            [name, *(f'{value:.4f}' if there else '–' for value in values)]
            for name, *values, there in zip(scenes.CLASSES, ap, precision[0].mean(0), present)
        ),
    ]
    axes = report.figures[f'ap-{kind}'].axes[0]
    drawn = {
        label.get_text(): bar.get_width()
        for label, bar in zip(axes.get_yticklabels(), axes.patches)
    }
    assert_close([drawn[name] for name in scenes.CLASSES], np.where(present, ap, 0))


@pytest.mark.parametrize('report', ['semfpn'], indirect=True)
def test_confusion_and_bars_of_pixels(report):
    """Equal to counts over the label maps themselves and to the metric's IoU."""
    axes = report.figures['confusion'].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    shares = axes.images[0].get_array()
    assert_close(shares.sum(1)[shares.sum(1) > 0], 1)
    number = len(synthetic.ADE_CLASSES)
    true = sum(
        np.bincount(np.asarray(Image.open(path)).ravel() - 1, minlength=number)
        for path in (report.run.root / 'annotations/validation').iterdir()
    )
    true = {name: true[synthetic.ADE_CLASSES.index(name)] for name in names}
    counts = shares * np.array([true[name] for name in names])[:, None]
    iou = 100 * np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert iou.max() > 0
    for name, value in zip(names, iou):
        assert report.numbers[f'IoU.{name}'] == pytest.approx(value)
    rows = report.page.tables['table-iou']
    assert {row[0]: row[1] for row in rows[1:]} == {
        name: f'{report.numbers[f"IoU.{name}"]:.4f}' for name in synthetic.ADE_CLASSES
    }


def test_a_class_without_pixels_has_no_iou():
    metrics = {'IoU.sky': 12.5, 'IoU.sea': np.nan}
    about = SimpleNamespace(classes=['sky', 'sea', 'sand'], metrics=metrics)
    table = report_module.class_iou_section(about).table
    assert table.rows == [('sky', '12.5000'), ('sea', '–'), ('sand', '–')]


@pytest.mark.parametrize('report', ['retinanet', 'mask_rcnn'], indirect=True)
def test_confusion_of_objects_counts_every_object_once(report):
    axes = report.figures['confusion'].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == 'background'  # an untrained network predicts what is not there
    content = report.ground_truth
    of_id = {c['id']: c['name'] for c in content['categories']}
    true = {of_id[a['category_id']] for a in content['annotations']}
    shares = axes.images[0].get_array()
    assert {n for n, row in zip(names[:-1], shares) if row.sum()} == true
    assert_close(shares.sum(1)[[n in true for n in names]], 1)


def instances(boxes, labels, scores=None):
    result = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    if scores is not None:
        result.scores = torch.tensor(scores, dtype=torch.float32)
    return result


class Sample(dict):
    __getattr__ = dict.__getitem__


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


@pytest.mark.parametrize(
    'ground_truth, predicted, pairs, mistakes',
    [
        # correct, another class, on the background, missed
        (
            [(A, 0), (B, 1), (C, 2)],
            [(A, 0, 0.9), (B, 0, 0.8), ((0, 50, 9, 60), 1, 0.7)],
            [(0, 0), (1, 0), (3, 1), (2, 3)],
            [(0.8, 0, 1), (0.7, 1, 3)],
        ),
        # predicted twice: the higher-scoring one counts
        ([(A, 0)], [(A, 0, 0.6), (A, 0, 0.9)], [(0, 0), (3, 0)], [(0.6, 0, 3)]),
        # a higher-scoring one of another class does not take the object away
        ([(A, 0)], [(A, 1, 0.9), (A, 0, 0.6)], [(0, 0), (3, 1)], [(0.9, 1, 3)]),
        # IoU below a half, and a score below the threshold
        ([(A, 0)], [((6, 0, 16, 10), 0, 0.9), (A, 0, 0.2)], [(0, 3), (3, 0)], [(0.9, 0, 3)]),
        ([], [], [], []),
    ],
)
def test_objects_are_matched(ground_truth, predicted, pairs, mistakes):
    sample = Sample(
        gt_instances=instances([b for b, _ in ground_truth], [n for _, n in ground_truth]),
        pred_instances=instances(*([f[i] for f in predicted] for i in range(3))),
    )
    comparison = error_analysis.compare_objects(sample, 3, 0.3)
    assert sorted(map(tuple, comparison.pairs[:, :2].tolist())) == sorted(pairs)
    assert [(round(m.score, 4), m.predicted, m.true) for m in comparison.mistakes] == mistakes


def test_predictions_on_ignored_regions_are_no_mistakes():
    sample = Sample(
        gt_instances=instances([A], [0]),
        pred_instances=instances([B, C], [0, 1], [0.9, 0.8]),
        ignored_instances=instances([(15, 0, 35, 30)], [0]),
    )
    comparison = error_analysis.compare_objects(sample, 3, 0.3)
    assert [(m.predicted, m.true) for m in comparison.mistakes] == [(1, 3)]


def test_pixels_of_the_ignored_label_do_not_count():
    rng = np.random.RandomState(0)
    ground_truth, logits = rng.randint(0, 3, (1, 6, 7)), torch.randn(3, 6, 7)
    ground_truth[0, 0] = 255
    predicted = logits.argmax(0)
    sample = Sample(
        gt_sem_seg=PixelData(data=torch.tensor(ground_truth)),
        pred_sem_seg=PixelData(data=predicted[None]),
        seg_logits=PixelData(data=logits),
    )
    comparison = error_analysis.compare_pixels(sample, 3)
    counts = error_analysis.confusion_matrix([comparison, comparison], 3)
    score = 0.0
    for t in range(3):
        for p in range(3):
            assert counts[t, p] == 2 * ((ground_truth[0] == t) & (predicted.numpy() == p)).sum()
    for y in range(1, 6):
        for x in range(7):
            if ground_truth[0, y, x] != predicted[y, x]:
                score += float(torch.exp(logits[:, y, x] - logits[:, y, x].logsumexp(0)).max())
    assert comparison.mistakes[0].score == pytest.approx(score / 42)


def test_highest_scoring_mistakes_come_first():
    def comparison(*scores):
        return error_analysis.Comparison(
            np.empty((0, 3)), [error_analysis.Mistake(s, 0, 1, (0, 0, 1, 1)) for s in scores]
        )

    worst = error_analysis.worst_mistakes([comparison(0.3, 0.9), comparison(), comparison(0.5)], 2)
    assert [(i, m.score) for i, m in worst] == [(0, 0.9), (2, 0.5)]


@pytest.mark.parametrize('arch', ['m1', 'm2', 'm3', 'm4'])
@pytest.mark.parametrize('folded', [False, True], ids=['plain', 'folded'])
def test_selection_gives_the_hidden_states(arch, folded):
    """A ⊙ B̂ times the mixer's input is what it projects; maps are the network's outputs."""
    network = randomised(EfficientViM(arch)).eval()
    if folded:
        network.fuse()
    seen = []
    for stage in network.stages:
        mixer = stage.blocks[-1].mixer
        stage.blocks[-1].norm.register_forward_hook(lambda *a: seen.append([a[2]]))
        mixer.hz_proj.register_forward_hook(lambda *a: seen[-1].append(a[1][0]))
    x = torch.randn(2, 3, 96, 160)
    stages, maps = capture_features(network, lambda: network(x))
    assert len(stages) == len(maps) == 3
    for stage, whole, (normalised, h_in), info in zip(
        stages, maps, seen, feature_info(arch, (0, 1, 2))
    ):
        assert stage.map.shape == (info.channels, *(-(-side // info.stride) for side in (96, 160)))
        np.testing.assert_allclose(stage.map, whole[0].detach(), rtol=0, atol=1e-6)
        product = np.einsum('nhw,chw->nc', stage.selection, normalised[0].detach().numpy())
        expected = h_in[0].detach().numpy()
        np.testing.assert_allclose(product, expected, atol=1e-4 * np.abs(expected).max())


def test_maps_end_at_the_edge_of_the_image():
    """Where the network's input is padded, the map's padding is cut off."""
    seen = figures.NetworkInput(np.zeros((40, 50, 3), np.uint8), (64, 64))
    network = EfficientViM('m1', out_indices=(0,)).eval()
    stages, _ = capture_features(network, lambda: network(torch.randn(1, 3, 64, 64)))
    axes = figures.selections(stages[:1], seen).axes[1]
    image, overlay = axes.images
    assert image.get_extent() == [0, 50, 40, 0] and overlay.get_extent() == [0, 64, 64, 0]
    assert axes.get_xlim() == (0, 50) and axes.get_ylim() == (40, 0)
    assert overlay.get_array().shape == (4, 4)


def test_command_names_the_report(run_of, tmp_path):
    run = run_of('retinanet')
    out = call(
        'test',
        run.config,
        run.checkpoint,
        '--work-dir',
        tmp_path,
        '--fuse',
        '--report',
        tmp_path / 'r',
    )
    assert f'report: {tmp_path}/r/report.html' in out
    assert '<p>None.</p>' in (tmp_path / 'r/report.html').read_text()  # no mistake above 0.3
    (tmp_path / 'file').touch()
    for more in (['--report', tmp_path / 'file'], ['--report', tmp_path / 'r', '--tta']):
        argv = [str(a) for a in (run.config, run.checkpoint, '--work-dir', tmp_path, *more)]
        assert run_command('test', argv) == 2
