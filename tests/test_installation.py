"""What start-up checks: other projects' packages found first, a system library that is missing."""

import os
import shutil
import subprocess
import sys

import pytest

from effvim import resources
from effvim.installation import PACKAGES, check_installation, explain_import_error
from tests.helpers.paths import ROOT

NO_LIBGL = 'libGL.so.1: cannot open shared object file: No such file or directory'
COMMANDS = {
    'module': [sys.executable, '-m', 'effvim', 'check'],
    'python': [sys.executable, '-c', 'import effvim; effvim.Predictor'],
}


def run(argv, cwd, *path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path))}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)


def test_this_installation_is_right():
    assert check_installation() is None
    assert resources.CONFIGS == ROOT / 'configs'
    assert resources.REQUIREMENTS == ROOT / 'requirements.txt'


@pytest.mark.parametrize('tool', sorted((ROOT / 'tools').glob('*.py')), ids=lambda p: p.stem)
def test_tools_run_the_checkout_that_they_are_in(tool, tmp_path):
    """Whether or not a package is installed, from any directory, whatever is found first."""
    checkout, other = tmp_path / 'checkout', tmp_path / 'other'
    for folder in ('tools', 'effvim'):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns('__*__'))
    (checkout / 'effvim/__init__.py').touch()
    (checkout / 'effvim/cli/__init__.py').touch()
    entry = 'def tool(command, file):\n    print(command, __file__)\n    return 7\n'
    (checkout / 'effvim/cli/entry.py').write_text(entry)
    (other / 'effvim').mkdir(parents=True)
    (other / 'effvim/__init__.py').write_text('raise SystemExit("imported")')
    done = run([sys.executable, checkout / 'tools' / tool.name], other, other)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split()[1] == str(checkout / 'effvim/cli/entry.py')


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('name', PACKAGES)
def test_the_package_of_another_project_is_named(name, command, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / '__init__.py').write_text('raise SystemExit("imported")')
    done = run(COMMANDS[command], tmp_path, tmp_path, ROOT)
    last = done.stderr.strip().splitlines()[-1]
    assert f"another project's {name} is found first, {tmp_path / name} instead of" in last
    if command == 'python':
        assert done.returncode == 1 and last.startswith('ImportError: ')
    else:
        assert done.returncode == 2 and last == done.stderr.strip()
        assert last.startswith('error: ')


def test_a_module_of_that_name_is_named(tmp_path):
    (tmp_path / 'backbone.py').write_text('raise SystemExit("imported")')
    done = run(COMMANDS['module'], tmp_path, ROOT)
    assert done.returncode == 2 and f'{tmp_path / "backbone.py"} instead of' in done.stderr


def test_a_package_that_is_missing(tmp_path):
    shutil.copytree(ROOT / 'effvim', tmp_path / 'effvim')
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import effvim; effvim.fuse'
    done = run([sys.executable, '-I', '-S', '-c', code], tmp_path)
    assert f'the package backbone is missing from {tmp_path}' in done.stderr


def test_a_missing_libgl_is_one_line(tmp_path):
    (tmp_path / 'cv2').mkdir()
    (tmp_path / 'cv2/__init__.py').write_text(f'raise ImportError({NO_LIBGL!r}, name="cv2")')
    done = run([sys.executable, ROOT / 'tools/check.py'], tmp_path, tmp_path)
    assert done.returncode == 2 and done.stderr.startswith('error: OpenCV cannot be loaded')
    assert done.stderr.count('\n') == 1 and 'libGL.so.1' in done.stderr
    assert '--force-reinstall --no-deps opencv-python-headless' in done.stderr
    assert 'apt-get install libgl1' in done.stderr


def test_which_import_errors_are_explained():
    glib = ImportError(NO_LIBGL.replace('libGL', 'libgthread-2.0'), name='cv2')
    assert 'libgthread-2.0.so.1 is missing' in explain_import_error(glib)
    outer = RuntimeError('mmcv cannot be imported')
    outer.__cause__ = ImportError(NO_LIBGL)
    assert 'libGL.so.1 is missing' in explain_import_error(outer)
    for other in (ImportError('no module named cv2'), ImportError('libcudart.so.12: cannot open')):
        assert explain_import_error(other) is None
