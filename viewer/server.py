"""The web server of the page: viser's, kept to the machine and the pages it is meant for.

viser serves its own client (one HTML file) and a websocket. It binds the next free port without a word, lets any web
page that the user visits connect, and opens a public tunnel when a client asks for one; none of that happens here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

import viser
from viser.infra import WebsockClientConnection

from viewer.visitors import Visitors, own_names

PORTS_TRIED = 50  # after the one that was asked for, to suggest a free one
EVERYWHERE = ("0.0.0.0", "::", "")
IN_FLIGHT_LIMIT = 2  # pictures sent to a browser that it has not confirmed


class PageServer(viser.ViserServer):
    """A viser server that opens no tunnel and refuses browsers whose page comes from another site (`Visitors`)."""

    def __init__(self, host: str, port: int, label: str, allow_origin: Sequence[str] = ()) -> None:
        """Listens at once. allow_origin: origins of proxies and forwards that are the user's own.

        ValueError when the port is in use, the host is no address of this machine, or an origin is none.
        """
        self._visitors = Visitors(host, allow_origin)
        check_port(host, port)
        logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a traceback for every malformed request
        super().__init__(host=host, port=port, label=label, verbose=False)
        if port and self.get_port() != port:  # taken between the check and now; viser went on to another one
            self.stop()
            raise ValueError(f"--port {port} on {host} is in use; try --port {self.get_port()}")
        self._unconfirmed: dict[int, list[float]] = {}
        self.seconds_of_pictures: dict[int, float] = {}
        self._websock_server.on_client_connect(self._refuse_strangers)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Never: sharing would show the avatar to the world through somebody else's server."""
        return None

    async def _refuse_strangers(self, connection: WebsockClientConnection) -> None:
        live = self._websock_server._live_connections[connection.client_id]
        request = live.request
        if request is None:
            return
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self._visitors.welcome(host, origin):
            self._visitors.tell(host, origin)
            await live.close(1008, "refused: the page comes from another site; the terminal says which flag lets it in")

    def ready_for_picture(self, client_id: int) -> bool:
        """Whether a browser has received all but the last few pictures, so that another would not queue up."""
        return len(self._unconfirmed.get(client_id, ())) < IN_FLIGHT_LIMIT

    def picture_sent(self, client_id: int) -> None:
        """Ask for a sign that what was sent has arrived; `seconds_of_pictures` learns how long that takes."""
        live = self._websock_server._live_connections.get(client_id)
        if live is not None:
            self._unconfirmed.setdefault(client_id, []).append(time.monotonic())
            asyncio.run_coroutine_threadsafe(self._confirm(client_id, live), self.get_event_loop())

    def forget(self, client_id: int) -> None:
        """Drop what is known of a browser that left."""
        self._unconfirmed.pop(client_id, None)
        self.seconds_of_pictures.pop(client_id, None)

    async def _confirm(self, client_id: int, live: Any) -> None:
        # The answer to a ping comes after all that was sent before it; viser batches messages for 1/60 s.
        await asyncio.sleep(1 / 50)
        with contextlib.suppress(Exception):  # whatever ends a connection also ends the wait
            await (await live.ping())
        sent = self._unconfirmed.get(client_id)
        if sent:
            self.seconds_of_pictures[client_id] = time.monotonic() - sent.pop(0)


def addresses(host: str, port: int) -> list[str]:
    """Where a browser finds a server that listens at `host`: on this machine first, then from others, if they can."""
    if host in EVERYWHERE:
        return [f"http://localhost:{port}", f"http://{min(own_names(), key=len, default=host)}:{port}"]
    name = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    return [f"http://{name}:{port}"]


def check_port(host: str, port: int) -> None:
    """ValueError when `port` (0: any) cannot be listened on at `host`, with a free port to try instead."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port: wanted 0 to 65535, got {port}")
    try:
        family, _, _, _, _ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host: {host} is no address ({error.strerror})") from None
    problem = _bind_problem(family, host, port)
    if problem is None:
        return
    if problem.errno is not None and _bind_problem(family, host, 0) is not None:
        raise ValueError(f"--host: {host} is no address of this machine ({problem.strerror})")
    free = (p for p in range(port + 1, min(port + 1 + PORTS_TRIED, 2**16)) if _bind_problem(family, host, p) is None)
    raise ValueError(f"--port {port} on {host} cannot be used ({problem.strerror}); try --port {next(free, 0)}")


def _bind_problem(family: int, host: str, port: int) -> OSError | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
