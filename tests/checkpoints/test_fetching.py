"""Published weights from a server on the loopback, with its faults: helpers/weight_server.py."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from backbone import UserError
from effvim.checkpoints import fetching
from tests.helpers import published, weight_server
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

NAME, FILE = 'efficientvim_m1_e450_raw', 'EfficientViM_M1_e450.pth'
DRIVE = 'https://drive.google.com/uc?id=1ztpSVnWccoGEEobpmk107US3MjX4LEgz'


def left_over(cache):
    """Files of the cache but the finished ones and what keeps other processes away."""
    return [
        path.relative_to(cache).as_posix()
        for path in cache.rglob('*')
        if path.is_file() and path.suffix != '.lock' and path.parent != cache
    ]


def error(capsys, name=NAME):
    """The one line with which `effvim weights fetch` ends."""
    assert run_command('weights', ['fetch', name]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]


def assert_by_hand(message, cache):
    """That a message says what to download and where to put it."""
    assert f'download {DRIVE} by hand' in message and f'{cache}/downloads/{FILE}' in message


def raw_tensors():
    """The raw weights of the fixture `authors_m1`."""
    return published.filled(published.classifier_shapes('m1'), 1)


def assert_raw(path):
    """That a file holds the raw weights of the fixture `authors_m1`."""
    given, raw = safetensors.torch.load_file(path), raw_tensors()
    assert given.keys() == raw.keys()
    assert all(torch.equal(given[name].flatten(), raw[name].flatten()) for name in raw)


def test_fetched_once_then_from_the_cache(m1, cache, capsys):
    assert run_command('weights', ['fetch', NAME]) == 0
    assert capsys.readouterr().out.strip() == str(cache / f'{NAME}.safetensors')
    assert_raw(cache / f'{NAME}.safetensors')
    assert left_over(cache) == []
    requests = len(m1.requests)
    m1.status = 500
    assert fetching.fetch(NAME) == fetching.fetch(f'effvim://{NAME}') == fetching.cached_path(NAME)
    assert len(m1.requests) == requests
    assert run_command('weights', ['list']) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if ' yes ' in line]
    assert len(rows) == 1 and NAME in rows[0]
    assert run_command('weights', ['verify']) == 0
    assert capsys.readouterr().out == f'{NAME}: ok\n'


def test_damage_in_the_cache_is_noticed(m1, cache, capsys):
    path = fetching.fetch(NAME)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert run_command('weights', ['verify', NAME]) == 1
    assert 'is corrupt: delete it' in capsys.readouterr().out
    path.write_bytes(content[:-100])  # fetched again
    assert fetching.fetch(NAME) == path
    assert fetching.verify(NAME) == ''


@pytest.mark.parametrize('status', [403, 404, 429, 503])
def test_a_status(status, m1, cache, capsys):
    m1.status = status
    message = error(capsys)
    assert f'{m1.url}/{FILE} answers {status}' in message
    assert_by_hand(message, cache)
    assert left_over(cache) == []


def test_a_web_page_instead_of_the_file(m1, cache, capsys):
    m1.html = weight_server.QUOTA
    message = error(capsys)
    assert 'web page instead of the file ("Google Drive - Quota exceeded")' in message
    assert_by_hand(message, cache)
    assert left_over(cache) == []


def test_no_server(cache, monkeypatch, capsys):
    with weight_server.serving() as gone:
        monkeypatch.setenv('EFFVIM_MIRROR', gone.url)
    message = error(capsys)
    assert 'cannot be reached (ConnectionError)' in message
    assert_by_hand(message, cache)


def test_a_broken_download_is_resumed(m1, authors_m1, cache):
    m1.cut = [3_000_000]
    assert_raw(fetching.fetch(NAME))
    (_, _, first), (_, _, rest) = m1.requests
    assert first == '' and int(rest.removeprefix('bytes=').rstrip('-')) >= 2_000_000
    assert left_over(cache) == []


def test_a_download_that_keeps_breaking_off_is_continued_by_the_next_command(m1, cache, capsys):
    m1.cut = [3_000_000, 1_000_000, 1_000_000, 1_000_000]
    message = error(capsys)
    assert 'broke off after' in message and 'kept for the next attempt' in message
    (part,) = left_over(cache)
    size = (cache / part).stat().st_size
    assert size >= 3_000_000
    m1.cut = []
    assert_raw(fetching.fetch(NAME))
    assert m1.requests[-1][2] == f'bytes={size}-'
    assert left_over(cache) == []


def test_a_server_without_ranges_is_asked_for_the_whole(m1, cache):
    m1.ranges = False
    m1.cut = [3_000_000]
    assert_raw(fetching.fetch(NAME))
    assert left_over(cache) == []


def test_a_slow_server(m1):
    m1.pause = 0.02
    assert_raw(fetching.fetch(NAME))


def test_a_silent_server(m1, cache, monkeypatch, capsys):
    monkeypatch.setattr('effvim.checkpoints.download.TIMEOUT', 0.2)
    monkeypatch.setattr('effvim.checkpoints.download.RETRIES', 0)
    m1.pause = 2
    message = error(capsys)
    assert 'cannot be reached (' in message
    assert_by_hand(message, cache)


@pytest.mark.parametrize('how', ['rubbish', 'a bit', 'cut', 'empty', 'directory', 'middle'])
def test_wrong_bytes(how, m1, authors_m1, tmp_path, cache, capsys):
    content = bytearray(authors_m1.read_bytes())
    content[len(content) // 2] ^= 1
    half, directory = len(content) // 2, content.rindex(b'PK\x01\x02')  # of the archive
    damaged = {
        'rubbish': bytes(range(256)) * 99,
        'cut': bytes(content[:-9000]),
        'empty': b'',
        'directory': bytes(content[:directory] + b'none' + content[directory + 4 :]),
        'middle': bytes(content[: half // 2] + content[half:]),
    }
    m1.files[FILE] = tmp_path / FILE
    m1.files[FILE].write_bytes(damaged.get(how, content))
    message = error(capsys)
    assert f'{m1.url}/{FILE}' in message and str(tmp_path / 'cache/weights/partial') not in message
    assert_by_hand(message, cache)
    assert left_over(cache) == [] and not list(cache.glob('*.safetensors'))
    m1.files[FILE] = authors_m1  # nothing of the wrong one is remembered
    assert_raw(fetching.fetch(NAME))


def test_weights_of_other_shapes(m1, tmp_path, monkeypatch, cache, capsys):
    state = published.filled(published.classifier_shapes('m2'))
    m1.files[FILE] = tmp_path / FILE
    published.save_imagenet(m1.files[FILE], state, state, monkeypatch)
    message = error(capsys)
    assert f'does not hold {NAME}' in message and 'in the network' in message
    assert_by_hand(message, cache)
    assert left_over(cache) == []
    assert [path.name for path in cache.iterdir()] == ['partial']  # nothing is remembered of it


def test_another_file_later_is_refused(m1, tmp_path, monkeypatch, cache, capsys):
    path = fetching.fetch(NAME)
    path.unlink()
    state = published.filled(published.classifier_shapes('m1'), 3)
    other = tmp_path / FILE
    published.save_imagenet(other, state, state, monkeypatch)
    first, m1.files[FILE] = m1.files[FILE], other
    message = error(capsys)
    assert 'is not the file that was fetched before' in message and f'{NAME}.json' in message
    assert not path.exists()
    m1.files[FILE] = first
    assert_raw(fetching.fetch(NAME))
    path.unlink()
    (cache / f'{NAME}.json').unlink()
    m1.files[FILE] = other
    assert fetching.fetch(NAME) == path


def test_a_file_downloaded_by_hand(authors_m1, cache, monkeypatch):
    monkeypatch.setenv('EFFVIM_MIRROR', 'http://127.0.0.1:9')
    (cache / 'downloads').mkdir(parents=True)
    shutil.copy(authors_m1, cache / 'downloads' / FILE)
    assert_raw(fetching.fetch(NAME))
    assert (cache / 'downloads' / FILE).exists()  # the user's own


def test_a_cache_that_cannot_be_written(m1, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('mine')
    monkeypatch.setenv('EFFVIM_CACHE', str(tmp_path / 'file'))
    message = error(capsys)
    assert 'cannot be written' in message and 'set EFFVIM_CACHE' in message
    assert m1.requests == []


def test_a_full_disk(m1, cache, monkeypatch, capsys):
    usage = shutil.disk_usage(cache.parent.parent)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr('shutil.disk_usage', lambda path: usage)
        message = error(capsys)
    assert 'No space left on device' in message and 'set EFFVIM_CACHE' in message
    assert not list(cache.glob('*.safetensors'))
    assert_raw(fetching.fetch(NAME))


def process(*argv, **more):
    """Start `effvim weights …`."""
    return subprocess.Popen(
        [sys.executable, '-m', 'effvim', 'weights', *argv],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_a_file_size_limit(m1, cache):
    limit = (10_000_000, 10_000_000)
    done = process(
        'fetch', NAME, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    out, err = done.communicate()
    assert done.returncode == 2 and out == ''
    assert err.startswith('error: ') and err.count('\n') == 1 and 'File too large' in err
    assert not list(cache.glob('*.safetensors'))


def test_two_processes_at_once_download_once(m1, cache):
    m1.pause = 0.05
    running = [process('fetch', NAME) for _ in range(2)]
    outputs = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(cache / f'{NAME}.safetensors')}
    assert [request[:2] for request in m1.requests] == [('GET', FILE)]


def test_a_killed_process_leaves_nothing_that_is_in_the_way(m1, cache):
    m1.pause = 0.2
    running = process('fetch', NAME)
    while not list(cache.glob('partial/*.part')):
        assert running.poll() is None
    running.kill()
    running.communicate()
    assert not list(cache.glob('*.safetensors'))
    m1.pause = 0
    assert_raw(fetching.fetch(NAME))
    assert left_over(cache) == []


def test_the_hub(server, tmp_path, cache, monkeypatch, capfd):
    """By the hub's own client, whose address is a variable of its own."""
    name, shapes = 'efficientvim_m1_e450', published.classifier_shapes('m1')
    tensors = published.filled(shapes, 2)
    flat = {n: v.flatten() if 'norm' in n and v.ndim > 1 else v for n, v in tensors.items()}
    server.files['model.safetensors'] = tmp_path / 'model.safetensors'
    safetensors.torch.save_file(flat, server.files['model.safetensors'])
    monkeypatch.delenv('EFFVIM_MIRROR')
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
    server.status = 404
    done = process('fetch', name)
    _, err = done.communicate()
    assert done.returncode == 2 and err.count('\n') == 1 and 'huggingface.co/timm' in err, err
    server.status = None
    done = process('fetch', name)
    out, err = done.communicate()
    assert done.returncode == 0, err
    given = safetensors.torch.load_file(out.strip())
    assert all(torch.equal(given[n].flatten(), v.flatten()) for n, v in tensors.items())


def test_a_mirror_that_is_no_address(cache, monkeypatch, capsys):
    monkeypatch.setenv('EFFVIM_MIRROR', '/srv/weights')
    assert 'EFFVIM_MIRROR' in error(capsys)


def test_a_corrupt_record(m1, cache, capsys):
    fetching.fetch(NAME)
    (cache / f'{NAME}.json').write_text('{')
    assert f'{NAME}.json cannot be read' in error(capsys)
    (cache / f'{NAME}.json').write_text(json.dumps({'url': 'x'}))
    with pytest.raises(UserError, match='delete it and fetch again'):
        fetching.fetch(NAME)


def test_words_of_the_command(cache, capsys):
    assert 'no published weights called nonsense' in error(capsys, 'nonsense')
    assert run_command('weights', ['path', NAME]) == 2
    assert f'effvim weights fetch {NAME}' in capsys.readouterr().err
    assert run_command('weights', ['verify']) == 0
    assert 'no weights in' in capsys.readouterr().out
    assert run_command('weights', []) == 2
