"""Published weights as a local file: fetched, verified and converted once, then from the cache.

Importing this needs no torch; neither does weights that are in the cache.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from backbone import hub
from backbone.errors import UserError
from effvim.checkpoints import cache
from effvim.checkpoints.cache import Record
from effvim.checkpoints.download import NO_SPACE, Unavailable, download
from effvim.checkpoints.published import PublishedWeights, find, of_config
from effvim.files import sha256_of


def fetch(name: str) -> Path:
    """The file of published weights, converted; it is downloaded if it is not in the cache.

    Any number of processes may fetch at once: one does, the others wait. A file whose SHA-256 was
    not published is accepted if it has exactly the tensors of the network; from then on only the
    same file is.

    Args:
        name: see `published.find`.

    Raises:
        UserError: there are none of that name, they cannot be had, are not what they should be, or
            cannot be stored; says what to download by hand and where to put it.
    """
    weights = find(name)
    path = cache.path_of(weights)
    if cache.is_cached(weights):
        return path
    with cache.locked(weights):
        if not cache.is_cached(weights):  # another process may have been quicker
            try:
                _fetch(weights)
            except OSError as error:
                space = ' free space there, or' if error.errno in NO_SPACE else ''
                raise UserError(
                    f'{weights.name} cannot be stored in {cache.directory()}: {error.strerror}:'
                    f'{space} set EFFVIM_CACHE to another directory'
                ) from error
    return path


def fetch_for(config: str) -> Path:
    """The file of the published weights of a packaged config, see `fetch`.

    Raises:
        UserError: as `fetch`, or none were published for it.
    """
    return fetch(of_config(config).name)


def _fetch(weights: PublishedWeights) -> None:
    """Obtain a published file, verify it and put it into the cache."""
    source, url = _obtain(weights)
    own = source == cache.partial(weights)
    converted = cache.partial(weights).parent / f'{weights.name}.safetensors'
    try:
        digest = check_file(weights, source, url)

        from effvim.checkpoints.architecture import check_shapes
        from effvim.checkpoints.conversion import convert

        convert(source, converted, weights.ema)
        check_shapes(weights, converted, url)
        record = Record(
            url,
            digest,
            source.stat().st_size,
            sha256_of(converted),
            converted.stat().st_size,
        )
        cache.remember(weights, record)
        os.replace(converted, cache.path_of(weights))
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            own = False  # the download is kept
            raise cause from error
        raise UserError(
            f'{weights.name} cannot be used: {str(error).replace(str(source), url)}; '
            f'{_by_hand(weights)}'
        ) from error
    finally:
        converted.unlink(missing_ok=True)
        if own:
            source.unlink(missing_ok=True)


def _by_hand(weights: PublishedWeights) -> str:
    """What a user can do who gets an error."""
    return (
        f'download {weights.url} by hand, e.g. in a browser, save it as '
        f'{cache.by_hand(weights)} and run this again'
    )


def _obtain(weights: PublishedWeights) -> tuple[Path, str]:
    """The published file on this machine, and where it is from.

    Raises:
        UserError: it cannot be had.
    """
    placed, partial, url = cache.by_hand(weights), cache.partial(weights), weights.url
    if placed.is_file():
        return placed, str(placed)
    mirror = os.environ.get('EFFVIM_MIRROR')
    if mirror:
        if not mirror.startswith(('http://', 'https://')):
            raise UserError(f'EFFVIM_MIRROR must be an address with http:// or https://: {mirror}')
        url = f'{mirror.rstrip("/")}/{weights.file}'
    try:
        if weights.source == 'hub' and not mirror:
            return _from_hub(weights), url
        download(url, partial)
    except Unavailable as error:
        raise UserError(
            f'{weights.name} cannot be fetched: {url} {error}; {_by_hand(weights)}'
        ) from error
    return partial, url


def _from_hub(weights: PublishedWeights) -> Path:
    """The file in the cache of the hub's client."""
    try:
        return hub.resolve(weights.location)
    except UserError as error:
        raise Unavailable(f'cannot be reached ({type(error.__cause__).__name__})') from error


def check_file(weights: PublishedWeights, path: Path, origin: str) -> str:
    """Check a published file before it is read; returns its SHA-256.

    Args:
        weights: what it should be.
        path: the file.
        origin: where it is from, for messages.

    Raises:
        UserError: it is a web page, damaged, or not the file that was published or fetched before.
    """
    with open(path, 'rb') as file:
        head = file.read(4096)
    if re.match(rb'\s*<(!doctype|html|head|\?xml)', head, re.IGNORECASE):
        title = re.search(rb'<title>(.*?)</title>', head, re.IGNORECASE | re.DOTALL)
        words = ' '.join(title[1].decode(errors='replace').split())[:80] if title else ''
        raise UserError(
            f'{origin} sent a web page instead of the file'
            + (f' ("{words}")' if words else '')
            + ', as servers do when a quota is exceeded or a login is needed'
        )
    digest, size = sha256_of(path), path.stat().st_size
    record = cache.remembered(weights)
    known = weights.sha256 or (record.sha256 if record else None)
    if known and digest != known:
        published = weights.sha256 is not None
        raise UserError(
            f'{origin} is not the file that was {"published" if published else "fetched before"}: '
            f'its SHA-256 is {digest}, not {known}'
            + ('' if published else f' (delete {cache.record_path(weights)} to accept it)')
        )
    if weights.size is not None and size != weights.size:
        raise UserError(f'{origin} has {size:,} bytes, not {weights.size:,}')
    if zipfile.is_zipfile(path):  # PyTorch writes checksums and does not read them
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise UserError(f'{origin} is damaged: {error}') from error
        if bad:
            raise UserError(f'{origin} is damaged: the checksum of {bad} in it is wrong')
    return digest


def verify(name: str) -> str:
    """Check weights in the cache, byte by byte and shape by shape.

    Args:
        name: see `published.find`.

    Returns:
        What is wrong with them; '' if nothing is.

    Raises:
        UserError: there are none of that name, or they are not in the cache.
    """
    weights = find(name)
    path = cached_path(name)
    record = cache.remembered(weights)
    if record is None:
        return f'{path} was not fetched: delete it'
    if sha256_of(path) != record.converted_sha256:
        return f'{path} is corrupt: delete it and fetch it again'

    from effvim.checkpoints.architecture import check_shapes

    try:
        check_shapes(weights, path, str(path))
    except UserError as error:
        return str(error)
    return ''


def cached_path(name: str) -> Path:
    """The file of published weights in the cache; nothing is fetched.

    Raises:
        UserError: there are none of that name, or they are not in the cache.
    """
    weights = find(name)
    path = cache.path_of(weights)
    if not path.is_file():
        raise UserError(
            f'{weights.name} is not in the cache: effvim weights fetch {weights.name}, or '
            f'{_by_hand(weights)}'
        )
    return path
