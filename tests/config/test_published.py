"""Runs that repeat a published recipe are compared with the authors' curves, others are not."""

import json
from types import SimpleNamespace

import pytest

from effvim.config.editing import apply_options, parse_options
from effvim.config.published import published_curve, published_names
from effvim.config.reading import load_config
from effvim.engine.hooks import EffViMPublishedHook
from effvim.visualization.curves import draw_runs
from tests.helpers.paths import ROOT

NAMES = ('retinanet_effvim_m4', 'mask_rcnn_effvim_m4', 'semfpn_effvim_m4')


@pytest.mark.parametrize('name', NAMES)
def test_runs_of_the_recipe(name, recipe_run, tmp_path):
    cfg, spec = recipe_run(name)
    curve = published_curve(cfg, spec.config, 1)
    header = (ROOT / f'configs/{name}.py').read_text()
    last = curve.evaluations[-1]
    if name.startswith('semfpn'):
        assert last['mIoU'] == 41.29 and '41.3' in header
        assert curve.iteration(last) == cfg.train_cfg.max_iters
    else:
        assert f'{100 * last["bbox_mAP"]:.1f}' in header
        assert last['epoch'] == len(curve.evaluations) == cfg.train_cfg.max_epochs
    # the copy that training writes is of the same recipe
    cfg.dump(str(tmp_path / f'{name}.py'))
    copy = load_config(str(tmp_path / f'{name}.py'))
    assert published_curve(copy, f'{name}.py') == curve


@pytest.mark.parametrize(
    'name, argv, options, world_size',
    [
        ('retinanet_effvim_m3', (), (), 1),  # nothing was published
        ('retinanet_effvim_m4', (), (), 2),  # another total batch size
        ('retinanet_effvim_m4', (), ('train_dataloader.batch_size=8',), 1),
        ('retinanet_effvim_m4', (), ('optim_wrapper.optimizer.lr=1e-4',), 1),
        ('retinanet_effvim_m4', (), ('train_cfg.max_epochs=6',), 1),
        ('retinanet_effvim_m4', (), ('model.backbone.norm_eval=False',), 1),
        ('retinanet_effvim_m4', ('--from-scratch',), (), 1),
        ('semfpn_effvim_m4', (), (), 2),
        ('semfpn_effvim_m4', (), ('param_scheduler.0.power=1.0',), 1),
    ],
)
def test_other_runs(name, argv, options, world_size, recipe_run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg, spec = recipe_run(name, *argv, options=options)
    assert published_curve(cfg, spec.config, world_size) is None


def test_another_number_of_classes(recipe_run, roots):
    """Its metrics are of another dataset."""
    cfg, spec = recipe_run('retinanet_effvim_m4', root=roots['CocoDataset'])
    assert published_curve(cfg, spec.config, 1) is None


def test_the_recipe_on_half_the_batch_twice(recipe_run):
    """Gradients of two batches make one step of the published size."""
    options = ('train_dataloader.batch_size=8', 'optim_wrapper.accumulative_counts=2')
    cfg, spec = recipe_run('retinanet_effvim_m4', options=options)
    assert published_curve(cfg, spec.config, 1)


def test_validations_are_compared(recipe_run, capsys):
    cfg, spec = recipe_run('retinanet_effvim_m4')
    hook = EffViMPublishedHook()
    runner = SimpleNamespace(
        cfg=cfg, spec=spec, world_size=1, rank=0, epoch=12, iter=87960, train_loop=None
    )
    hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.3805, 'coco/bbox_mAP_50': 0.59})
    said = capsys.readouterr().out
    assert 'after epoch 12: bbox_mAP 0.381, published 0.388 (-0.008)' in said.replace('−', '-')
    runner.epoch = 13
    hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.3805})
    assert not capsys.readouterr().out


def test_plots_draw_the_published_curve(recipe_run, tmp_path):
    """Dashed, at the iterations of its evaluations; not next to a run of another recipe."""
    cfg, _ = recipe_run('mask_rcnn_effvim_m4')
    for folder, options in (('same', []), ('other', ['train_cfg.max_epochs=1'])):
        (tmp_path / folder / '20250101_000000/vis_data').mkdir(parents=True)
        copy = cfg.copy()
        apply_options(copy, parse_options(options))
        copy.dump(str(tmp_path / folder / 'mask_rcnn_effvim_m4.py'))
        records = [
            dict(loss=1.5, epoch=1, step=7330),
            {'coco/bbox_mAP': 0.2, 'coco/segm_mAP': 0.1, 'step': 1},
        ]
        (tmp_path / folder / '20250101_000000/vis_data/scalars.json').write_text(
            ''.join(json.dumps(record) + '\n' for record in records)
        )
    figure = draw_runs([tmp_path / 'same'])
    for axes, last in zip(figure.axes, (0.6294, 0.397, 0.364)):
        assert axes.lines[-1].get_linestyle() == '--'
        assert axes.lines[-1].get_ydata()[-1] == last
    assert figure.axes[1].lines[-1].get_xdata()[-1] == 12 * 7330
    assert 'mask_rcnn_effvim_m4, published' in [
        text.get_text() for text in figure.legends[0].get_texts()
    ]
    figure = draw_runs([tmp_path / 'other'])
    assert all(len(axes.lines) == 1 for axes in figure.axes)


def test_names():
    assert published_names() == set(NAMES)
