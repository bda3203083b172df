"""Programs whose output nobody reads to the end."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

PROGRAM = """
import sys
from effvim import console
from effvim.cli import entry, main
def run(*_):
    {body}
    return 3
main.run = run
sys.exit(entry.script())
"""


def status_and_stderr(body, closed=True):
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        text=True,
    )
    if closed:
        process.stdout.close()
    process.stdin.close()  # from here on it may write
    error = process.stderr.read()
    process.stderr.close()
    process.stdout.close()
    return process.wait(), error


@pytest.mark.parametrize('body', ['print("a")', 'console.say("a")', 'print("a"); sys.exit(0)'])
def test_a_reader_that_has_ended(body):
    """As `| head` does."""
    assert status_and_stderr(f'sys.stdin.read(); {body}') == (141, '')


def test_other_pipes_and_faults_keep_their_traceback():
    status, error = status_and_stderr('raise BrokenPipeError("another")', closed=False)
    assert status == 1 and error.endswith('BrokenPipeError: another\n')
    status, error = status_and_stderr('sys.stdin.read(); raise ValueError("b")')
    assert status != 0 and 'ValueError: b\n' in error


def test_without_any_stdout():
    assert status_and_stderr('sys.stdout = None; print("a")', closed=False) == (3, '')
