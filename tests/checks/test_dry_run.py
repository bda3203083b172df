"""`effvim train --dry-run` does everything that a run does, and leaves no files."""

import re

import pytest
from mmengine.runner import Runner as MMRunner

from effvim.visualization.curves import summarize_runs
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

SMALL = {
    'retinanet': [
        'train_dataloader.dataset.pipeline.2.scale=(128,128)',
        'val_dataloader.dataset.pipeline.1.scale=(128,128)',
    ],
    'semfpn': [
        'train_dataloader.dataset.pipeline.2.scale=(512,128)',
        'train_dataloader.dataset.pipeline.3.crop_size=(128,128)',
        'model.data_preprocessor.size=(128,128)',
        'val_dataloader.dataset.pipeline.1.scale=(512,128)',
        *(
            f'{loader}_dataloader.dataset.{key}=.bmp'
            for loader in ('train', 'val', 'test')
            for key in ('img_suffix', 'seg_map_suffix')
        ),
    ],
}


@pytest.mark.parametrize('name', SMALL)
def test_trains_resumes_evaluates_and_leaves_nothing(name, roots, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []
    call_hook = MMRunner.call_hook

    def recorded(self, hook, **kwargs):
        if hook in ('after_train_iter', 'after_val_iter', 'after_load_checkpoint'):
            seen.append((hook, self.iter))
        return call_hook(self, hook, **kwargs)

    monkeypatch.setattr(MMRunner, 'call_hook', recorded)
    root = roots[name]
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    argv = [
        str(ROOT / f'configs/{name}_effvim_m1.py'),
        '--from-scratch',
        '--data-root',
        str(root),
        '--dry-run',
        '--cfg-options',
        'train_dataloader.batch_size=2',
        *SMALL[name],
    ]
    assert run_command('train', argv) == 0
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    trained = [iteration for hook, iteration in seen if hook == 'after_train_iter']
    assert trained == [0, 1, 2, 3]
    hooks = [hook for hook, _ in seen]
    resumed = hooks.index('after_load_checkpoint')
    for half in (hooks[:resumed], hooks[resumed:]):
        assert half.count('after_train_iter') == 2 and 'after_val_iter' in half
    out = capsys.readouterr().out
    assert re.search(r'memory: about [\d,]+ MiB with a batch of 2 images', out)
    steps = {'retinanet': r'whole run of 6\d steps', 'semfpn': r'whole run of 40,000 steps'}
    assert re.search(steps[name], out), out


@pytest.mark.parametrize('more', [['--resume'], ['--launcher', 'pytorch']])
def test_refuses_resume_and_launcher(more, roots, capsys):
    argv = [
        str(ROOT / 'configs/retinanet_effvim_m1.py'),
        '--data-root',
        str(roots['retinanet']),
        '--dry-run',
        *more,
    ]
    assert run_command('train', argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and '--dry-run' in lines[0] and more[0] in lines[0]


def test_a_row_for_each_run(tmp_path):
    for name, scores in (('one', [0.1, 0.3, 0.2]), ('two', [0.4])):
        log = tmp_path / name / '20260101_000000/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(
            '{"loss": 1.5, "step": 10}\n{"loss": 1.25, "step": 20}\n'
            + ''.join(
                f'{{"coco/bbox_mAP": {score}, "step": {i}}}\n' for i, score in enumerate(scores, 1)
            )
        )
    table = summarize_runs([tmp_path / 'one', tmp_path / 'two'])
    cells = list(zip(*(column._cells for column in table.columns)))
    assert cells == [
        (str(tmp_path / 'one'), '20', '1.2500', '0.2000 (best 0.3000)'),
        (str(tmp_path / 'two'), '20', '1.2500', '0.4000 (best 0.4000)'),
    ]


POOLING = """
_base_ = {base!r}
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True, type='PSPHead', in_channels=320, in_index=2, channels=8, pool_scales=(1,),
        num_classes=150, norm_cfg=dict(type='BN'),
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
)
visualizer = dict(name='visualizer')
"""


def test_a_head_that_cannot_be_trained_on_one_image(roots, tmp_path, monkeypatch, capsys):
    """Its image pooling leaves one value a channel. The visualizer has a name, as in mmseg."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pooling.py').write_text(
        POOLING.format(base=str(ROOT / 'configs/semfpn_effvim_m1.py'))
    )
    argv = ['pooling.py', '--from-scratch', '--data-root', str(roots['semfpn']), '--dry-run']
    options = ['train_dataloader.batch_size=2', *SMALL['semfpn']]
    assert run_command('train', [*argv, '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert re.search(r'memory: about [\d,]+ MiB with a batch of 2 images', out)
    assert [path.name for path in tmp_path.iterdir()] == ['pooling.py']
