"""Downloading a file: resumed where it broke off, with the reason in words if it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path

from effvim import console

TIMEOUT = 30  # seconds that a server may be silent

START_TIMEOUT = 120  # seconds until the first byte: pages may lead from one to another for ever

RETRIES = 2  # after a connection that broke off or was refused; the client waits in between

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unavailable(Exception):
    """A file cannot be had; the message goes on a sentence that began with its address."""


def download(url: str, path: Path) -> None:
    """Download a file, which gets its name when it is complete; needs no torch.

    Bytes that arrived before a failure stay next to `path` and are not asked for again, unless the
    server cannot send the rest alone. The usual variables such as HTTPS_PROXY are respected.

    Args:
        url: address of the file; of Google Drive that of its download link.
        path: where it is stored. Its directory exists.

    Raises:
        Unavailable: it cannot be had.
        OSError: it cannot be written.
    """
    import requests
    from gdown.exceptions import DownloadCancelled, DownloadError, FileURLRetrievalError

    try:
        try:
            _transfer(url, path)
        except DownloadError as error:
            if 'byte range' not in str(error) or not _remove_parts(path):
                raise
            _transfer(url, path)  # from the start: the server cannot continue
    except FileURLRetrievalError as error:
        raise Unavailable(f'is refused by Google Drive: {_reason(error)}') from error
    except DownloadCancelled as error:
        raise Unavailable(f'sends no file within {START_TIMEOUT} s') from error
    except requests.HTTPError as error:
        response = error.response
        raise Unavailable(f'answers {response.status_code} {response.reason}') from error
    except (DownloadError, requests.RequestException) as error:
        received = sum(part.stat().st_size for part in _parts(path))
        if received:
            raise Unavailable(
                f'broke off after {received:,} bytes, which are kept for the next attempt'
            ) from error
        cause = error.__cause__ or error
        raise Unavailable(f'cannot be reached ({type(cause).__name__})') from error


def _transfer(url: str, path: Path) -> None:
    """One attempt, which the client resumes a few times."""
    import gdown

    too_late = threading.Event()
    start = threading.Timer(START_TIMEOUT, too_late.set)
    start.daemon = True
    with console.transfer(path.name) as bar, contextlib.ExitStack() as stack:
        start.start()
        stack.callback(start.cancel)
        task = bar.add_task(path.name, total=None)

        def progress(done: int, total: int | None) -> None:
            start.cancel()
            free = shutil.disk_usage(path.parent).free
            if total and free < total - done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            bar.update(task, completed=done, total=total)

        gdown.download(
            url,
            str(path),
            quiet=True,
            use_cookies=False,  # which would be stored in the home directory
            resume=True,
            progress=progress,
            timeout=TIMEOUT,
            retries=RETRIES,
            cancel=too_late,
        )


def _parts(path: Path) -> list[Path]:
    """The client's unfinished files of a download."""
    return list(path.parent.glob(f'{path.name}????????.part'))


def _remove_parts(path: Path) -> bool:
    """Remove the unfinished files; returns whether there were any."""
    parts = _parts(path)
    for part in parts:
        part.unlink()
    return bool(parts)


def _reason(error: Exception) -> str:
    """What Google Drive's page says, out of the client's message."""
    text = ' '.join(str(error).split()).removeprefix('Failed to retrieve file url: ')
    return text.partition(' You may still be able')[0].partition(' Check FAQ')[0].rstrip('.')
