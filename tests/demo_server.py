"""tools/demo.py running on a port of its own, with checkpoints of a small run."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

from conftest import ROOT

from effvim import cli, mini
from effvim import train as train_tool

CONFIG = ROOT / 'configs/retinanet_effvim_m1.py'
# What an untrained network finds is kept, so that there is something to show.
OPTIONS = ['model.test_cfg.score_thr=0.0', 'model.test_cfg.max_per_img=20']
MAX_MEGABYTES = 0.5


def train(folder):
    """Checkpoints of two epochs, the last first."""
    root = mini.draw_coco(folder / 'coco', num_train=4, num_val=1, size=96)
    quick = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=2']
    for loader, step in (('train', 2), ('val', 1), ('test', 1)):
        quick += [f'{loader}_dataloader.num_workers=0',
                  f'{loader}_dataloader.dataset.pipeline.{step}.scale=(96,64)']
    assert cli.run(train_tool.main, [
        str(CONFIG), '--from-scratch', '--data-root', str(root), '--work-dir', str(folder / 'run'),
        '--cfg-options', *OPTIONS, *quick]) == 0
    return [str(folder / f'run/epoch_{i}.pth') for i in (2, 1)]


class Listener(threading.Thread):
    """A proxy that serves nobody; called: how often a connection was tried."""

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
def serving(*argv):
    """Its address; afterwards checks that it asked no other server and ended as it should."""
    proxy = Listener()
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'GRADIO_SHARE': 'True',
           **dict.fromkeys(('http_proxy', 'https_proxy', 'all_proxy'), proxy.address)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/demo.py'), *map(str, argv), '--port', '0'],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith('page: http://127.0.0.1:'), process.communicate()[1]
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            proxy.socket.close()
    assert (process.returncode, proxy.called) == (0, 0), errors
    assert 'Traceback' not in out + errors, errors
