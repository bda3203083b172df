"""Tests mirror the packages; shared code is in tests/helpers, fixtures are in conftest files."""

import ast
import re

import pytest

from tests.helpers.paths import ROOT

TESTS = ROOT / 'tests'
FILES = sorted(path for path in TESTS.rglob('*.py') if TESTS / 'data' not in path.parents)
PACKAGES = ('backbone', 'effvim', 'maintenance', 'mmdet_plugin', 'mmseg_plugin')
NO_ROOM = {'data', 'docs', 'gpu', 'helpers', 'slow'}


def decorators(function):
    """Names of a function's decorators, without arguments: pytest.fixture, pytest.mark.slow."""
    for node in function.decorator_list:
        yield ast.unparse(node.func if isinstance(node, ast.Call) else node)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_what_a_file_holds_and_imports(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{each.name}' for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            names = []
        modules = [name for name in names if re.match(r'(tests\.|.*\b(test_\w+|conftest)$)', name)]
        assert all(name.startswith('tests.helpers.') for name in modules), modules
        if isinstance(node, ast.FunctionDef):
            marks = set(decorators(node))
            assert 'pytest.fixture' not in marks or path.name == 'conftest.py', node.name
            assert (
                'pytest.mark.slow' not in marks
                or path.parent.name == 'slow'
                or (
                    path.name == 'test_distributed.py'  # shares its server of ranks
                )
            ), node.name


def test_rooms_are_those_of_the_packages():
    rooms = {path.parent.name for path in FILES if path.parent != TESTS} - NO_ROOM
    packages = {path.name for path in (ROOT / 'effvim').iterdir() if path.is_dir()}
    assert rooms <= packages | set(PACKAGES)
    assert all(path.parent in (TESTS, TESTS / path.parent.name) for path in FILES)
    for path in FILES:
        assert (
            path.name.startswith('test_')
            or path.name == 'conftest.py'
            or (path.parent.name == 'helpers')
        ), path
