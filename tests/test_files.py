"""Files and directories are written whole or not at all, and never over anything else."""

import os
from pathlib import Path

import pytest

from backbone.errors import UserError
from effvim.files import (
    atomic_directory,
    atomic_file,
    ensure_writable,
    new_directory,
    write_all_atomic,
    write_atomic,
)


def test_a_file_is_replaced_whole_with_the_usual_permissions(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    write_atomic(path, b'one')
    write_atomic(path, b'two ', memoryview(b'three'))
    assert path.read_bytes() == b'two three' and os.listdir(path.parent) == ['a.txt']
    path.with_name('b.txt').touch()
    assert path.stat().st_mode == path.with_name('b.txt').stat().st_mode


def test_on_windows(tmp_path, monkeypatch):
    """A directory cannot be opened there, and posix_fadvise does not exist."""
    real = os.open

    def refuse_directories(path, *arguments):
        if os.path.isdir(path):
            raise PermissionError(path)
        return real(path, *arguments)

    monkeypatch.setattr('os.open', refuse_directories)
    monkeypatch.setattr('effvim.files.WINDOWS', True)
    monkeypatch.delattr('os.posix_fadvise', raising=False)
    write_atomic(tmp_path / 'a.txt', b'content')
    assert (tmp_path / 'a.txt').read_bytes() == b'content'


def test_a_new_directory_appears_whole(tmp_path):
    target = tmp_path / 'data'
    with new_directory(target) as directory:
        (directory / 'a').touch()
        assert not target.exists()
    assert os.listdir(target) == ['a'] and os.listdir(tmp_path) == ['data']
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_left_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / 'data') as directory:
        (directory / 'a').touch()
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match='data cannot be written: .*No space'),
        new_directory(tmp_path / 'data'),
    ):
        raise OSError(28, 'No space left on device')
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten(tmp_path):
    """Neither what was there before, nor what appears in the meantime."""
    (tmp_path / 'there').mkdir()
    with pytest.raises(UserError, match='there exists'), new_directory(tmp_path / 'there'):
        raise AssertionError
    with pytest.raises(UserError, match='later exists'), new_directory(tmp_path / 'later'):
        (tmp_path / 'later').mkdir()
    assert sorted(os.listdir(tmp_path)) == ['later', 'there']


def test_a_directory_that_may_be_replaced_is(tmp_path):
    target = tmp_path / 'data'
    for name in 'ab':
        with atomic_directory(target, lambda: False) as directory:
            (directory / name).touch()
    with atomic_directory(target, lambda: True) as directory:  # another process was quicker
        (directory / 'c').touch()
    assert os.listdir(target) == ['b'] and os.listdir(tmp_path) == ['data']


def test_a_directory_that_cannot_be_written_names_the_flag(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='choose another with --out'):
        ensure_writable(tmp_path / 'file', '--out')


def test_a_file_that_is_not_completed_leaves_the_old_one(tmp_path):
    path = tmp_path / 'deep/file'
    with atomic_file(path) as file:
        file.write(b'old')
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b'new')
        assert path.read_bytes() == b'old'
        raise KeyError
    assert path.read_bytes() == b'old' and list(path.parent.iterdir()) == [path]
    with atomic_file(path) as file:
        Path(file.name).write_bytes(b'by its name')
    assert path.read_bytes() == b'by its name'


def test_several_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    paths = [tmp_path / 'weights.bin', tmp_path / 'graph.xml']
    write_all_atomic(dict.fromkeys(paths, b'old'))
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:  # the second file
            raise OSError(28, 'No space left on device')
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        write_all_atomic(dict.fromkeys(paths, b'new'))
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [path.read_bytes() for path in paths] == [b'old'] * 2


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ('字' * 85)  # 255 bytes
    write_atomic(path, b'content')
    assert path.read_bytes() == b'content'
