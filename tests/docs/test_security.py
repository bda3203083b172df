"""docs/security.md: the tests and the code that it names exist; what it says of the code holds."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers.paths import ROOT

PACKAGES = ('backbone', 'mmdet_plugin', 'mmseg_plugin', 'effvim', 'tools', 'maintenance')
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob('*.py'))
TEXT = (ROOT / 'docs/security.md').read_text()


def test_every_claim_names_a_test_that_exists():
    named = re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', TEXT)
    assert len(named) > 10
    for path, name in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f'{path}::{name}'
    rows = [line for line in TEXT.splitlines() if line.startswith('| ')][2:]
    assert len(rows) > 5 and all('tests/' in row for row in rows)


def test_every_function_that_it_names_exists():
    named = set(re.findall(r'`((?:backbone|effvim)\.[\w.]+)`', TEXT))
    assert len(named) > 5
    for name in named:
        *modules, attribute = name.split('.')
        if modules[-1][0].isupper():
            owner = getattr(importlib.import_module('.'.join(modules[:-1])), modules[-1])
        else:
            owner = importlib.import_module('.'.join(modules))
        assert hasattr(owner, attribute), name


def calls(path):
    """Every call in a source file: its name as written, and the call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_is_run_or_unpickled(path):
    """No evaluation, no shell, no unpickling except by torch's restricted reader."""
    defined = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    for name, call in calls(path):
        if name in defined:
            continue
        keywords = {k.arg: k.value for k in call.keywords}
        assert name not in ('eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen'), name
        assert not re.fullmatch(
            r'(c?pickle|dill|joblib|marshal|shelve)\.(load|loads|open|Unpickler)|pd\.read_pickle|'
            r'(mmengine\.|fileio\.)?load|yaml\.(load|unsafe_load|full_load)',
            name,
        ), name
        assert 'shell' not in keywords, name
        if name == 'torch.load':
            weights_only = keywords['weights_only']
            assert isinstance(weights_only, ast.Constant) and weights_only.value
        if name == 'np.load':
            assert 'allow_pickle' not in keywords


def test_a_small_file_of_many_pixels_is_refused(tmp_path):
    """By the tools' OpenCV, before it takes the memory; by Pillow through its own limit."""
    path = tmp_path / 'bomb.png'
    Image.new('1', (17_000, 16_000)).save(path)
    assert path.stat().st_size < 200_000
    code = f"""
import sys
from effvim.cli import main
main.set_process_defaults()
import cv2
try:
    sys.exit(0 if cv2.imread({str(path)!r}) is None else 3)
except cv2.error as error:
    sys.exit(0 if "CV_IO_MAX_IMAGE_PIXELS" in str(error) else 4)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('package', ['onnxruntime', 'openvino', 'nncf'])
def test_runtimes_do_not_report_their_use(package, tmp_path):
    """Before a package contacts a server it writes an identity to send along."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed')
    # nothing else is inherited: variables of CI systems switch it off, too
    env = {name: os.environ[name] for name in ('PATH', 'LD_LIBRARY_PATH') if name in os.environ}
    env.update(PYTHONPATH=str(ROOT), HOME=str(tmp_path), TMPDIR=str(tmp_path))
    code = f'import effvim, {package}'
    subprocess.run([sys.executable, '-c', code], env=env, check=True)
    assert list(tmp_path.rglob('*')) == []
