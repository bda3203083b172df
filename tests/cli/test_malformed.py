"""Every malformed input, to every tool: one line and status 2, nothing run, nothing damaged.

`tools/check.py` is asked what is wrong with data and weights: there it reports and ends with 1.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from effvim.cli import check, convert, demo, export, infer, test, train
from effvim.cli.main import run_main
from effvim.datasets import synthetic
from tests.helpers import malformed
from tests.helpers.paths import ROOT

RETINANET, MASK_RCNN, SEMFPN = (
    str(ROOT / f'configs/{name}_effvim_m1.py') for name in ('retinanet', 'mask_rcnn', 'semfpn')
)
SECONDS = 20  # a call that takes longer hangs

# Each tool by what it is given: words in capitals are replaced. A tool more is a line more.
TOOLS = {
    'train': (
        train.main,
        {
            'data': 'CONFIG --from-scratch --data-root DATA --work-dir out',
            'weights': 'CONFIG --data-root DATA --work-dir out --resume WEIGHTS',
            'options': 'CONFIG --from-scratch --data-root DATA --work-dir out --cfg-options OPTION',
        },
    ),
    'train load_from': (
        train.main,
        {'weights': 'CONFIG --data-root DATA --work-dir out --cfg-options load_from=WEIGHTS'},
    ),
    'test': (
        test.main,
        {
            'data': 'CONFIG GOOD --data-root DATA --work-dir out',
            'weights': 'CONFIG WEIGHTS --data-root DATA --work-dir out',
            'options': 'CONFIG GOOD --data-root DATA --work-dir out --cfg-options OPTION',
        },
    ),
    'check': (
        check.main,
        {
            'data': 'CONFIG --from-scratch --data-root DATA --quick',
            'pictures': 'CONFIG --from-scratch --data-root DATA --workers 0',
            'weights': 'CONFIG --data-root DATA --quick --cfg-options load_from=WEIGHTS',
            'options': 'CONFIG --from-scratch --data-root DATA --quick --cfg-options OPTION',
        },
    ),
    'convert_weights': (convert.main, {'weights': 'WEIGHTS new.safetensors'}),
    'export': (
        export.main,
        {
            'weights': 'CONFIG WEIGHTS --data-root DATA --work-dir out --out out/m.onnx',
            'options': 'CONFIG GOOD --data-root DATA --work-dir out --out out/m.onnx '
            '--cfg-options OPTION',
        },
    ),
    'infer': (infer.main, {'weights': 'CONFIG WEIGHTS data --out out'}),
    'demo': (demo.main, {'weights': 'CONFIG WEIGHTS --port 0'}),
}


class Case(NamedTuple):
    """One input to one tool."""

    tool: str
    kind: str  # of command line
    name: str
    config: str = RETINANET


def _cases():
    for tool, (_, kinds) in TOOLS.items():
        if 'data' in kinds:
            yield from (Case(tool, 'data', name) for name in malformed.COCO)
            yield from (Case(tool, 'data', name, MASK_RCNN) for name in malformed.MASKS)
            yield from (Case(tool, 'data', name, SEMFPN) for name in malformed.ADE)
            yield from (Case(tool, 'data', name, name) for name in malformed.CONFIGS)
        if 'pictures' in kinds:
            yield from (Case(tool, 'pictures', name) for name in malformed.PICTURES)
        if 'weights' in kinds:
            good = malformed.CONVERTIBLE if tool == 'convert_weights' else set()
            yield from (
                Case(tool, 'weights', name) for name in malformed.WEIGHTS if name not in good
            )
        if 'options' in kinds:
            more = malformed.TRAINING_OPTIONS if tool in ('train', 'check') else []
            yield from (Case(tool, 'options', name) for name in [*malformed.OPTIONS, *more])


CASES = list(_cases())


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Good data of both layouts and good weights, made once."""
    folder = tmp_path_factory.mktemp('malformed')
    synthetic.draw_coco(folder / 'coco', num_train=3, num_val=2, size=64)
    source = synthetic.draw_ade(folder / 'bmp', num_train=2, num_val=2, size=64)
    for path in source.rglob('*.bmp'):
        suffix = '.jpg' if path.parts[-3] == 'images' else '.png'
        target = folder / 'ade' / path.relative_to(source).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    torch.save({'state_dict': malformed.state()}, folder / 'good.pth')
    return folder


@pytest.fixture(autouse=True)
def _in_time():
    def late(*_):
        raise TimeoutError(f'more than {SECONDS} s')

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def contents(folder):
    """A hash of each file."""
    return {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def prepare(case, place, monkeypatch, tmp_path):
    """Do the damage in an empty folder; the command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    config, layout = case.config, 'ade' if case.config == SEMFPN else 'coco'
    shutil.copytree(place / layout, 'data')
    spoilers = {**malformed.COCO, **malformed.MASKS, **malformed.ADE, **malformed.PICTURES}
    if case.config == case.name:  # a config
        config, text = 'mine.py', malformed.CONFIGS[case.name]
        if text is not None:
            Path(config).write_text(text.format(base=RETINANET))
    elif case.kind in ('data', 'pictures'):
        spoilers[case.name](Path('data'))
    elif case.kind == 'weights':
        malformed.WEIGHTS[case.name](Path(case.name))
    words = {
        'CONFIG': config,
        'DATA': 'data',
        'GOOD': str(place / 'good.pth'),
        'OPTION': case.name,
        'WEIGHTS': case.name,
        'load_from=WEIGHTS': f'load_from={case.name}',
    }
    return [words.get(word, word) for word in TOOLS[case.tool][1][case.kind].split()]


@pytest.mark.parametrize('case', CASES, ids=lambda c: f'{c.tool}-{Path(c.config).stem}-{c.name}')
def test_malformed(case, place, monkeypatch, tmp_path, capsys):
    argv = prepare(case, place, monkeypatch, tmp_path)
    before, loaded = contents(tmp_path), {'mmdet.models', 'mmseg.models'} & sys.modules.keys()
    capsys.readouterr()
    status = run_main(TOOLS[case.tool][0], argv)
    out, err = capsys.readouterr()
    if case.tool == 'check' and case.config != case.name and case.kind != 'options':
        assert status == 1 and err == '' and '\nproblem: ' in out
    elif case.tool == 'check' and status == 1:  # an option that spoils data or weights
        assert err == '' and '\nproblem: ' in out
    else:
        assert status == 2, out + err
        assert err.startswith('error: ') and err.count('\n') == 1 and len(err) < 2000
    assert contents(tmp_path) == before
    assert not Path(malformed.RAN).exists()
    assert {'mmdet.models', 'mmseg.models'} & sys.modules.keys() == loaded


def test_the_corpus_is_large_and_knows_every_tool():
    assert len(CASES) >= 150
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert {tool.split()[0] for tool in TOOLS} <= tools


@pytest.mark.parametrize('tool', [name for name in TOOLS if ' ' not in name])
@pytest.mark.parametrize('how', ['code', 'bytes'])
def test_as_processes(tool, how, place, tmp_path, monkeypatch):
    """The real command, on weights that hold code and on broken ones."""
    name = {'code': 'system.pth', 'bytes': 'cut.pth'}[how]
    argv = prepare(Case(tool, 'weights', name), place, monkeypatch, tmp_path)
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / f'tools/{tool}.py'), *argv],
        capture_output=True,
        text=True,
        env={**os.environ, 'EFFVIM_DEBUG': ''},
    )
    said = done.stdout if tool == 'check' else done.stderr
    assert done.returncode == (1 if tool == 'check' else 2), done.stderr
    assert name in said and 'Traceback' not in done.stderr
    assert done.stderr.count('\n') == (tool != 'check')
    assert contents(tmp_path) == before
