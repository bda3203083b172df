"""`import effvim`: light, complete, never shadowed; commands and mistakes without torch."""

import json
import subprocess
import sys

import pytest

import effvim
from effvim.cli.main import COMMANDS
from effvim.datasets import synthetic
from tests.helpers.paths import ROOT
from tests.helpers.runs import SIZE, TEST

PUBLIC = {
    'EfficientViM',
    'EfficientViMClassifier',
    'HSMSSD',
    'Prediction',
    'Predictor',
    'UserError',
    '__version__',
    'evaluate',
    'export_model',
    'fuse',
    'train',
}


def python(code, *argv, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, '-c', code, *argv], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_slow():
    python(
        'import sys, effvim; assert not {"torch", "timm", "mmengine", "numpy"} & sys.modules.keys()'
    )


def test_public_names():
    assert set(effvim.__all__) == PUBLIC and set(dir(effvim)) >= PUBLIC
    with pytest.raises(AttributeError, match='nonsense'):
        effvim.nonsense  # noqa: B018


def test_no_module_takes_the_place_of_a_public_name():
    """`import effvim.train` would, if there were such a module."""
    python("""
import importlib, inspect, pkgutil
import backbone, effvim, mmdet_plugin, mmseg_plugin

for package in (effvim, backbone, mmdet_plugin, mmseg_plugin):
    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
        if not module.name.endswith('__main__'):
            importlib.import_module(module.name)
for package in (effvim, backbone):
    for name in package.__all__:
        value = getattr(package, name)
        assert not inspect.ismodule(value), name
        assert callable(value) or name in ('ARCHS', '__version__'), name
""")


MISTAKES = [
    [],
    ['tarin'],
    ['train'],
    ['train', 'absent.py'],
    ['train', 'retinanet_effvim_m9', '--mini'],
    ['train', 'retinanet_effvim_m1', '--nonsense'],
    ['train', 'retinanet_effvim_m1', '--epochs', '0', '--data', 'shapes'],
    ['train', 'retinanet_effvim_m1', '--epochs', '3'],
    ['train', 'retinanet_effvim_m1', '--seed', 'x'],
    ['train', 'retinanet_effvim_m1', '--skip-bad-batches', '-1'],
    ['train', 'retinanet_effvim_m1', '--mini', '--data-root', 'data'],
    ['train', 'retinanet_effvim_m1', '--launcher', 'magic'],
    ['test'],
    ['test', 'absent.pth'],
    ['test', 'absent.py', 'absent.pth'],
    ['test', 'retinanet_effvim_m1', 'absent.pth'],
    ['test', 'retinanet_effvim_m1', 'absent.onnx', '--fuse'],
    ['infer', 'absent.pth', 'image.jpg', '--out', 'out'],
    ['infer', 'retinanet_effvim_m1', 'absent.pth', 'image.jpg', '--out', 'out'],
    ['infer', 'absent.pth', 'image.jpg', '--out', 'out', '--score-thr', '2'],
    ['infer', 'absent.pth', 'image.jpg', '--out', 'out', '--batch', '0'],
    ['export', 'absent.pth', '--out', 'model.onnx'],
    ['export', 'absent.pth', '--out', 'model.txt'],
    ['demo', 'absent.pth'],
    ['demo', 'absent.pth', '--port', '99999'],
    ['check', 'absent.py'],
    ['benchmark', 'nonsense'],
    ['benchmark', 'model', 'absent.py'],
    ['convert', 'a.pth', 'b.safetensors', '--ema', '--raw'],
    ['convert', 'absent.pth', 'b.safetensors'],
    ['imagenet', 'absent.pth', 'images'],
    ['data', 'nonsense'],
    ['data', 'stats', 'absent'],
    ['plots', 'absent'],
    ['plots', 'absent', '--nonsense'],
]


def test_help_and_mistakes_need_no_torch(tmp_path):
    """All in one process: the first line that imports torch is the one that fails."""
    helps = [['--help'], ['--version'], *([command, '--help'] for command in COMMANDS)]
    lines = [*helps, *MISTAKES]
    out = python(
        """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[2])
from effvim.cli import main

results = []
for line in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main.run(line)
        except SystemExit as end:
            status = end.code
    results.append([status, 'torch' in sys.modules, errors.getvalue()])
print(json.dumps(results))
""",
        json.dumps(lines),
        str(ROOT),
        cwd=tmp_path,
    )
    for line, (status, loaded, errors) in zip(lines, json.loads(out), strict=True):
        assert not loaded, line
        assert status == (0 if line in helps else 2), (line, errors)
        assert line in helps or (errors.startswith('error: ') and errors.count('\n') == 1), line
    assert list(tmp_path.iterdir()) == []


def test_train_evaluate_export_and_predict_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = synthetic.draw_coco('data', num_train=2, num_val=2, size=64)
    options = [
        *TEST['retinanet'],
        'train_dataloader.batch_size=2',
        'train_cfg.max_epochs=1',
        *(
            f'{split}_dataloader.dataset.pipeline.{step}.scale={SIZE["retinanet"]}'
            for split, step in (('train', 2), ('val', 1), ('test', 1))
        ),
        *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    ]
    checkpoint = effvim.train(
        'retinanet_effvim_m1', data_root=root, from_scratch=True, work_dir='run', options=options
    )
    assert checkpoint.resolve() == (tmp_path / 'run/epoch_1.pth').resolve()
    metrics = effvim.evaluate(checkpoint, work_dir='test', out='metrics.json')
    assert metrics == json.loads((tmp_path / 'metrics.json').read_text())
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    exported = effvim.export_model(checkpoint, 'model.onnx', size=(96, 96))
    assert exported.resolve() == tmp_path / 'model.onnx'
    image = next((tmp_path / 'data/val2017').iterdir())
    for model in (checkpoint, exported):
        prediction = effvim.Predictor(model)(image)
        assert isinstance(prediction, effvim.Prediction)
        assert prediction.classes == ('disc', 'triangle', 'cross')
    with pytest.raises(effvim.UserError, match=r'absent\.pth'):
        effvim.evaluate('absent.pth')
