"""A server of weight files on the loopback, with the faults of real ones."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer as Server
from pathlib import Path
from typing import Any

# What Google Drive answers instead of a file that was downloaded too often.
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""


class WeightServer(Server):
    """Serves files by their name, the last word of an address, whatever is in front of it.

    Attributes:
        files: paths by name.
        requests: method, name and Range of each request, '' for none.
        status: answer everything with this status; None: as it should be.
        html: send this page instead of any file.
        cut: numbers of bytes after which the next answers break off, each once.
        ranges: whether parts of files can be had.
        pause: seconds before each mebibyte.
    """

    daemon_threads = True

    def __init__(self, handler: type[Handler] | None = None) -> None:
        super().__init__(('127.0.0.1', 0), handler or Handler)
        self.files: dict[str, Path] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.status: int | None = None
        self.html: str | None = None
        self.cut: list[int] = []
        self.ranges = True
        self.pause = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f'http://127.0.0.1:{self.server_address[1]}'

    def handle_error(self, request, client_address) -> None:
        """Clients may go away."""


class Handler(BaseHTTPRequestHandler):
    """Answers for `WeightServer`."""

    server: WeightServer
    more: Mapping[str, str] = {}  # further headers of answers

    def log_message(self, *args) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, body: bool = True) -> None:
        name = self.path.partition('?')[0].rpartition('/')[2]
        wanted = self.headers.get('Range', '')
        self.server.requests.append((self.command, name, wanted))
        path = self.server.files.get(name)
        if self.server.status or (path is None and self.server.html is None):
            self.send_error(self.server.status or 404)
            return
        content = self.server.html.encode() if self.server.html else path.read_bytes()
        start = 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix('bytes=').partition('-')[0])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        else:
            self.send_response(200)
        kind = 'text/html' if self.server.html else 'application/octet-stream'
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content) - start))
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', 'a' * 40)  # as the hub does
        for name, value in self.more.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.send(content[start:])

    def send(self, content: bytes) -> None:
        # a server is asked once for the whole before it is asked for a part: only parts are cut
        end = len(content)
        resumed = bool(self.headers.get('Range')) or not self.server.ranges
        if self.server.cut and (resumed or len(self.server.requests) == 1):
            end = self.server.cut.pop(0)
        for start in range(0, end, 2**20):
            time.sleep(self.server.pause)
            self.wfile.write(content[start : min(start + 2**20, end)])
        if end < len(content):
            self.wfile.flush()
            self.connection.close()


@contextlib.contextmanager
def serving(server: Server | None = None) -> Iterator[Any]:
    """A server that runs; by default a new `WeightServer`."""
    server = server or WeightServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
