"""A small trained run, and a stream."""

import signal

import pytest

from tests.helpers.videos import LIVE_FRAMES, LIVE_RATE, write_video


@pytest.fixture(scope='module')
def detector(run_of):
    """A small trained RetinaNet."""
    return run_of('retinanet')


@pytest.fixture
def transport_stream(tmp_path):
    """The content of a stream of four seconds."""
    write_video(tmp_path / 'live.ts', LIVE_FRAMES, rate=LIVE_RATE)
    return (tmp_path / 'live.ts').read_bytes()


@pytest.fixture
def interrupts():
    """The signals that a program's own handler of SIGINT, which is installed, has received."""
    received = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGINT, before)
