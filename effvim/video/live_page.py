"""A page in the browser that shows the newest annotated frame."""

from __future__ import annotations

import contextlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

HOST = '127.0.0.1'  # only this machine

BOUNDARY = 'frame'

PAGE = b"""<!doctype html><title>EfficientViM</title>
<body style="margin:0;background:#111"><img src="/frames" style="width:100%;height:100vh;
object-fit:contain" alt="the newest annotated frame">"""


class LivePage:
    """Serves the page on the loopback; a context manager.

    Attributes:
        address: of the page.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.newest: np.ndarray | None = None
        self.number = 0
        self.closed = False
        self.server = ThreadingHTTPServer((HOST, 0), type('Handler', (_Handler,), {'page': self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.address = f'http://{HOST}:{self.server.server_address[1]}'

    def __enter__(self) -> LivePage:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def show(self, image: np.ndarray) -> None:
        """Show a frame, H W 3, uint8, RGB; only where somebody looks it is encoded."""
        with self.changed:
            self.newest, self.number = image, self.number + 1
            self.changed.notify_all()

    def next_jpeg(self, last: int) -> tuple[int, bytes] | None:
        """Wait for a frame after number `last`: its number and its content; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.number > last)
            if self.closed or self.newest is None:
                return None
            number, image = self.number, self.newest
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, 'JPEG', quality=85)
        return number, buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    page: LivePage

    def do_GET(self) -> None:
        host = self.headers.get('Host', '').rpartition(':')[0]
        if host not in (HOST, 'localhost'):  # the name of a foreign page that points here
            self.send_error(403)
        elif self.path == '/':
            self._send('text/html; charset=utf-8')
            self.wfile.write(PAGE)
        elif self.path == '/frames':
            self._send(f'multipart/x-mixed-replace; boundary={BOUNDARY}')
            with contextlib.suppress(ConnectionError):
                self._send_frames()
        else:
            self.send_error(404)

    def _send(self, kind: str) -> None:
        self.send_response(200)
        self.send_header('Content-Type', kind)
        self.send_header('Cache-Control', 'no-store')
        self.end_headers()

    def _send_frames(self) -> None:
        last = 0
        while (found := self.page.next_jpeg(last)) is not None:
            last, content = found
            head = f'--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}'
            self.wfile.write(head.encode() + b'\r\n\r\n' + content + b'\r\n')

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
