"""Every malformed input, to every command: one line, status 2, no code run, no file changed.

`effvim check` reports problems with data and weights instead, and ends with 1.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import malformed
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

RETINANET, MASK_RCNN, SEMFPN = (
    str(ROOT / f'configs/{name}_effvim_m1.py') for name in ('retinanet', 'mask_rcnn', 'semfpn')
)

# Command lines by command and by kind of input; words in capitals are replaced.
COMMANDS = {
    'train': {
        'data': 'CONFIG --from-scratch --data-root DATA --work-dir out',
        'weights': 'CONFIG --data-root DATA --work-dir out --resume WEIGHTS',
        'options': 'CONFIG --from-scratch --data-root DATA --work-dir out --cfg-options OPTION',
    },
    'train load_from': {
        'weights': 'CONFIG --data-root DATA --work-dir out --cfg-options load_from=WEIGHTS'
    },
    'test': {
        'data': 'CONFIG GOOD --data-root DATA --work-dir out',
        'weights': 'CONFIG WEIGHTS --data-root DATA --work-dir out',
        'options': 'CONFIG GOOD --data-root DATA --work-dir out --cfg-options OPTION',
    },
    'check': {
        'data': 'CONFIG --from-scratch --data-root DATA --quick',
        'images': 'CONFIG --from-scratch --data-root DATA --workers 0',
        'weights': 'CONFIG --data-root DATA --quick --cfg-options load_from=WEIGHTS',
        'options': 'CONFIG --from-scratch --data-root DATA --quick --cfg-options OPTION',
    },
    'convert': {'weights': 'WEIGHTS new.safetensors'},
    'export': {
        'weights': 'CONFIG WEIGHTS --data-root DATA --work-dir out --out out/m.onnx',
        'options': 'CONFIG GOOD --data-root DATA --work-dir out --out out/m.onnx '
        '--cfg-options OPTION',
    },
    'infer': {'weights': 'CONFIG WEIGHTS data --out out'},
    'demo': {'weights': 'CONFIG WEIGHTS --port 0'},
}


class Case(NamedTuple):
    """One input to one command."""

    command: str
    kind: str  # of input
    name: str
    config: str = RETINANET


def _cases():
    for command, kinds in COMMANDS.items():
        if 'data' in kinds:
            yield from (Case(command, 'data', name) for name in malformed.COCO)
            yield from (Case(command, 'data', name, MASK_RCNN) for name in malformed.MASKS)
            yield from (Case(command, 'data', name, SEMFPN) for name in malformed.ADE)
            yield from (Case(command, 'data', name, name) for name in malformed.CONFIGS)
        if 'images' in kinds:
            yield from (Case(command, 'images', name) for name in malformed.IMAGES)
        if 'weights' in kinds:
            good = malformed.CONVERTIBLE if command == 'convert' else set()
            yield from (
                Case(command, 'weights', name) for name in malformed.WEIGHTS if name not in good
            )
        if 'options' in kinds:
            more = malformed.TRAINING_OPTIONS if command in ('train', 'check') else []
            yield from (Case(command, 'options', name) for name in [*malformed.OPTIONS, *more])


CASES = list(_cases())


def contents(folder):
    """A hash of each file."""
    return {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def prepare(case, valid_inputs, monkeypatch, tmp_path):
    """Damage the inputs in an empty directory; returns the command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    config, layout = case.config, 'ade' if case.config == SEMFPN else 'coco'
    shutil.copytree(valid_inputs / layout, 'data')
    spoilers = {**malformed.COCO, **malformed.MASKS, **malformed.ADE, **malformed.IMAGES}
    if case.config == case.name:  # a config
        config, text = 'mine.py', malformed.CONFIGS[case.name]
        if text is not None:
            Path(config).write_text(text.format(base=RETINANET))
    elif case.kind in ('data', 'images'):
        spoilers[case.name](Path('data'))
    elif case.kind == 'weights':
        malformed.WEIGHTS[case.name](Path(case.name))
    words = {
        'CONFIG': config,
        'DATA': 'data',
        'GOOD': str(valid_inputs / 'good.pth'),
        'OPTION': case.name,
        'WEIGHTS': case.name,
        'load_from=WEIGHTS': f'load_from={case.name}',
    }
    return [words.get(word, word) for word in COMMANDS[case.command][case.kind].split()]


@pytest.mark.usefixtures('time_limit')
@pytest.mark.parametrize('case', CASES, ids=lambda c: f'{c.command}-{Path(c.config).stem}-{c.name}')
def test_malformed(case, valid_inputs, monkeypatch, tmp_path, capsys):
    argv = prepare(case, valid_inputs, monkeypatch, tmp_path)
    before, loaded = contents(tmp_path), {'mmdet.models', 'mmseg.models'} & sys.modules.keys()
    capsys.readouterr()
    status = run_command(case.command.split()[0], argv)
    out, err = capsys.readouterr()
    if case.command == 'check' and case.config != case.name and case.kind != 'options':
        assert status == 1 and err == '' and '\nproblem: ' in out
    elif case.command == 'check' and status == 1:  # an option that spoils data or weights
        assert err == '' and '\nproblem: ' in out
    else:
        assert status == 2, out + err
        assert err.startswith('error: ') and err.count('\n') == 1 and len(err) < 2000
    assert contents(tmp_path) == before
    assert not Path(malformed.RAN).exists()
    assert {'mmdet.models', 'mmseg.models'} & sys.modules.keys() == loaded


def test_the_corpus_is_large_and_names_real_tools():
    assert len(CASES) >= 150
    tools = {path.stem.removesuffix('_weights') for path in (ROOT / 'tools').glob('*.py')}
    assert {command.split()[0] for command in COMMANDS} <= tools


# From the error to the exit status all commands go one way, so broken bytes go to one only.
PROCESSES = [(name, 'system.pth') for name in COMMANDS if ' ' not in name] + [('test', 'cut.pth')]


@pytest.mark.parametrize('command, name', PROCESSES)
def test_as_processes(command, name, valid_inputs, tmp_path, monkeypatch):
    """The real command, on weights that hold code and on broken ones."""
    argv = prepare(Case(command, 'weights', name), valid_inputs, monkeypatch, tmp_path)
    before = contents(tmp_path)
    tool = {'convert': 'convert_weights'}.get(command, command)
    done = subprocess.run(
        [sys.executable, str(ROOT / f'tools/{tool}.py'), *argv],
        capture_output=True,
        text=True,
        env={**os.environ, 'EFFVIM_DEBUG': ''},
        timeout=120,
    )
    output = done.stdout if command == 'check' else done.stderr
    assert done.returncode == (1 if command == 'check' else 2), done.stderr
    assert name in output and 'Traceback' not in done.stderr
    assert done.stderr.count('\n') == (command != 'check')
    assert contents(tmp_path) == before
