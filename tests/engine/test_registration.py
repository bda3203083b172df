"""What a config can name is registered in a process that has imported nothing else."""

import ast
import subprocess
import sys

from tests.helpers.paths import ROOT

CODE = """
import sys
import effvim.engine.runner
from mmengine import registry
registries = [r for r in vars(registry).values() if isinstance(r, registry.Registry)]
missing = [name for name in sys.argv[1:] if not any(r.get(name) for r in registries)]
assert not missing, missing
"""


def registered_names():
    """Classes in effvim/ below a decorator `register_module`."""
    names = []
    for path in sorted((ROOT / 'effvim').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                'register_module' in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                names.append(node.name)
    return names


def test_the_runner_registers_all_that_configs_name():
    names = registered_names()
    assert {
        'EffViMCpuAmpOptimWrapper',
        'EffViMResumeHook',
        'EffViMExportedModel',
        'EffViMSeededDataset',
    } <= set(names)
    done = subprocess.run(
        [sys.executable, '-c', CODE, *names], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
