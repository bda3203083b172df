"""`effvim demo` running on a free port, with checkpoints of a small run, and what it answers."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import torch

from effvim.checkpoints import checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.runs import TEST

MAX_MEGABYTES, MAX_SECONDS = 0.5, 2


def checkpoints(run, folder):
    """The run's checkpoint, and before it a copy whose scores differ more, as after training."""
    content = checkpoint.read(run.checkpoint)
    content['state_dict']['bbox_head.retina_cls.weight'] *= 5
    torch.save(content, folder / 'apart.pth')
    shutil.copy(run.checkpoint, folder / 'short.pth')
    return [str(folder / 'apart.pth'), str(folder / 'short.pth')]


class Listener(threading.Thread):
    """A proxy that serves nobody; `called` counts attempts to connect."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket, self.called = socket.create_server(('127.0.0.1', 0)), 0
        self.address = f'http://127.0.0.1:{self.socket.getsockname()[1]}'
        self.start()

    def run(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                self.socket.accept()[0].close()
                self.called += 1


@contextlib.contextmanager
def serving(run, checkpoints, folder, stop=signal.SIGINT):
    """The server's address; checks at exit that it contacted no other and left `folder` empty."""
    proxy = Listener()
    env = {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'GRADIO_SHARE': 'True',
        'TMPDIR': str(folder),
        **dict.fromkeys(('http_proxy', 'https_proxy', 'all_proxy'), proxy.address),
    }
    process = subprocess.Popen(
        [
            sys.executable,
            '-X',
            'faulthandler',
            str(ROOT / 'tools/demo.py'),
            str(run.config),
            *checkpoints,
            '--port',
            '0',
            '--max-megabytes',
            str(MAX_MEGABYTES),
            '--max-seconds',
            str(MAX_SECONDS),
            '--cfg-options',
            *TEST[run.kind],
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith('page: http://127.0.0.1:'), process.communicate()[1]
        yield line.split()[1]
    finally:
        process.send_signal(stop)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints what each thread waits for
            raise AssertionError(process.communicate()[1]) from None
        finally:
            process.kill()
            proxy.socket.close()
    assert (process.returncode, proxy.called) == (0, 0), errors
    # only for what gradio itself refuses
    assert errors.count('Traceback') == errors.count('gradio.exceptions.Error: '), errors
    assert list(folder.iterdir()) == []


class Answer:
    """What the page shows after a request."""

    def __init__(self, answer):
        image, self.text, png, content = answer
        # changes come as {'value': path, 'interactive': …}
        self.usable = png['interactive'], content['interactive']
        self.path, self.png, self.json = image['value'], png['value'], content['value']
        self.label = image['label']

    @property
    def content(self):
        return json.loads(Path(self.json).read_text())


def ask(client, path, checkpoint, tile=0):
    from gradio_client import handle_file

    client.predict(handle_file(path), Path(checkpoint).name, '', tile, api_name='/predict')
    return threshold(client, 0)


def threshold(client, score_thr):
    first, second = answers(client, score_thr)
    assert (second.path, second.text, second.usable) == (None, '', (False, False))
    return first


def answers(client, score_thr):
    answer = client.predict(score_thr, api_name='/show')
    return Answer(answer[:4]), Answer(answer[-4:])
