"""A page with one moving picture (MJPEG over HTTP), for a browser on this machine. It serves nothing else."""

from __future__ import annotations

import html
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BOUNDARY = "picture"
PATIENCE = 10.0  # seconds that a browser may take to ask or to receive a picture before it is dropped
KEEP_ALIVE = 1.0  # seconds after which a picture is sent again, so that a browser that left is noticed
MOST_BROWSERS = 8  # at once; each is a thread

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:0;height:100vh;display:grid;place-items:center;background:#111;color:#aaa;font:14px sans-serif}}
img{{max-width:100vw;max-height:94vh}}</style>
<body><img src="/stream" alt="the avatar, live"><p>{title}</p></body></html>
"""


class Broadcast:
    """Serves the newest picture to whoever looks, from a thread of its own, until `close`."""

    def __init__(self, host: str, port: int, title: str) -> None:
        """Listens at once; port 0 takes any free one (`port` tells). OSError when it cannot be listened on."""
        self._new = threading.Condition()
        self._picture, self._number, self.closed = b"", 0, False
        self.page = PAGE.format(title=html.escape(title)).encode()
        self.browsers = threading.Semaphore(MOST_BROWSERS)
        self._server = _Server((host, port), self)
        self.host, self.port = host, int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def publish(self, jpeg: bytes) -> None:
        """Show a picture."""
        with self._new:
            self._picture, self._number = jpeg, self._number + 1
            self._new.notify_all()

    def newest(self, after: int) -> tuple[int, bytes]:
        """The newest picture and its number, as soon as that is above `after`, or after a second at the latest."""
        with self._new:
            self._new.wait_for(lambda: self._number > after or self.closed, timeout=KEEP_ALIVE)
            return self._number, self._picture

    def close(self) -> None:
        """Stop serving."""
        with self._new:
            self.closed = True
            self._new.notify_all()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], broadcast: Broadcast) -> None:
        self.broadcast = broadcast
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers leave in the middle and strangers send nonsense; neither is worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version, sys_version = "reenact", ""

    def do_GET(self) -> None:
        broadcast = self.server.broadcast
        if not self._is_own_page():
            self.send_error(403, "found under another name than this machine's")
        elif self.path == "/":
            self._send("text/html; charset=utf-8", broadcast.page)
        elif self.path != "/stream":
            self.send_error(404)
        elif not broadcast.browsers.acquire(blocking=False):
            self.send_error(503, "too many browsers are looking")
        else:
            try:
                self._stream(broadcast)
            finally:
                broadcast.browsers.release()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def _is_own_page(self) -> bool:
        """A server of this machine alone must have been asked for under such a name: else any page on the web could
        point a name of its own here and look through the user's browser (DNS rebinding).
        """
        try:
            named = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return self.server.broadcast.host not in LOOPBACK or named in LOOPBACK

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, broadcast: Broadcast) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        number = 0
        while not broadcast.closed:
            number, picture = broadcast.newest(number)
            if not picture:
                time.sleep(0.01)
                continue
            part = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            self.wfile.write(part.encode() + picture + b"\r\n")
