"""Runs of `effvim benchmark`."""

import json

from tests.helpers.cli import run_command


def run(folder, *argv):
    """Results and tables of a run, which also writes a figure."""
    words = [str(word) for word in argv]
    outputs = [
        f'--{name}={folder / name}.{end}'
        for name, end in (('json', 'json'), ('markdown', 'md'), ('plot', 'png'))
    ]
    if argv[0] == 'evaluation':
        outputs.pop()
    assert run_command('benchmark', [*words, *outputs]) == 0
    results = json.loads((folder / 'json.json').read_text())
    assert results['command'] == f'effvim benchmark {" ".join(words)}'
    assert results['machine']['threads'] >= 1 and results['machine']['processor']
    assert {'torch', 'timm', 'python'} <= results['versions'].keys()
    return results, (folder / 'markdown.md').read_text()
