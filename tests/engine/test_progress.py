"""Progress where there is no terminal: a line at least every so many seconds."""

import re
import time
from types import SimpleNamespace

import torch


def runner_of(total):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    return SimpleNamespace(
        model=layer,
        rank=0,
        iter=0,
        epoch=0,
        max_epochs=1,
        max_iters=total,
        train_loop=None,
        train_dataloader=range(total),
        val_dataloader=range(total),
        optim_wrapper=SimpleNamespace(optimizer=optimizer),
        message_hub=SimpleNamespace(log_scalars={}),
    )


def test_a_slow_iteration_is_mentioned(progress, capsys):
    """The first one before it has ended, the next one by its number."""
    runner = runner_of(100)
    progress.before_train(runner)
    capsys.readouterr()
    time.sleep(1.2)
    said = capsys.readouterr().out.splitlines()
    assert said and all('the first iteration has been running' in line for line in said)
    progress.after_train_iter(runner, 0)
    time.sleep(1.2)
    said = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r'epoch 1/1  2/100 has been running for .*', line) for line in said)


def test_lines_by_time_and_by_number(progress, capsys):
    """Fast iterations print every 50th and the last; a slower one whenever it is time."""
    runner = runner_of(120)
    progress.before_train(runner)
    capsys.readouterr()
    for i in range(120):
        if i == 70:
            time.sleep(0.6)
        progress.after_train_iter(runner, i)
        runner.iter += 1
    said = capsys.readouterr().out
    assert {'50', '100', '120'} <= set(re.findall(r'(\d+)/120', said))
    assert '71/120' in said  # it took long, or was mentioned as it did
    assert progress.doing == 'saving after epoch 1/1'
    for i in range(120):
        progress.after_val_iter(runner, i)
    assert progress.doing == 'computing the metrics'


def test_it_is_quiet_after_the_run(progress, capsys):
    runner = runner_of(10)
    progress.before_train(runner)
    progress.after_run(runner)
    capsys.readouterr()
    time.sleep(0.7)
    assert not capsys.readouterr().out
