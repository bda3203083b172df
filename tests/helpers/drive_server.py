"""Google Drive on the loopback, behind a proxy: the page in front of a large file, the file."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

from tests.helpers.weight_server import Handler, WeightServer, serving

HOSTS = ('drive.google.com', 'drive.usercontent.google.com')

# What Google Drive shows before it sends a file that is too large for its virus scanner.
# It is one line, and the client needs it so.
WARNING = (
    '<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>'
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}">'
    '<input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t"></form></body></html>'
)


class DriveHandler(Handler):
    """The link of a file gives a page with a form; the form gives the file called 'download'."""

    more: Mapping[str, str] = {'Content-Disposition': 'attachment; filename="theirs.pth"'}

    def do_GET(self) -> None:
        path, _, query = self.path.partition('?')
        if path == '/download' and 'confirm=t' in query:
            self.answer()
            return
        self.server.requests.append(('GET', path, query))
        page = (self.server.html or WARNING.format(id=query.partition('id=')[2])).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(page)))
        self.end_headers()
        self.wfile.write(page)


class ProxyHandler(BaseHTTPRequestHandler):
    """Connects to the server whatever host is asked for."""

    def log_message(self, *args) -> None:
        """Nothing on stderr."""

    def do_CONNECT(self) -> None:
        self.server.hosts.append(self.path)
        if self.server.target is None:
            self.send_error(502)
            return
        with socket.create_connection(self.server.target) as far:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: far, far: self.connection}
            while ready := select.select(list(ends), [], [], 10)[0]:
                for end in ready:
                    content = end.recv(2**16)
                    if not content:
                        return
                    ends[end].sendall(content)


class Proxy(ThreadingHTTPServer):
    """A proxy for HTTPS.

    Attributes:
        target: the address that it connects to; None: it refuses.
        hosts: what it was asked for.
    """

    daemon_threads = True

    def __init__(self, target: tuple[str, int] | None) -> None:
        super().__init__(('127.0.0.1', 0), ProxyHandler)
        self.target = target
        self.hosts: list[str] = []

    def handle_error(self, request, client_address) -> None:
        """Clients may go away."""


@contextlib.contextmanager
def google_drive(folder: Path) -> Iterator[tuple[WeightServer, Proxy, dict[str, str]]]:
    """A server, the proxy in front of it, and the environment with which a client comes there.

    Args:
        folder: for the certificate of its authority.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / 'authority.pem')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    server = WeightServer(DriveHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    proxy = Proxy(('127.0.0.1', server.server_address[1]))
    with serving(server), serving(proxy):
        environment = {
            'HTTPS_PROXY': f'http://127.0.0.1:{proxy.server_address[1]}',
            'REQUESTS_CA_BUNDLE': str(folder / 'authority.pem'),
        }
        yield server, proxy, environment
