"""Which web pages may connect to the viewer, and what is said of those that may not."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

log = logging.getLogger("view")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MOST_TOLD = 20  # refused origins; a page that invents names must not fill the terminal


class Visitors:
    """Decides about a websocket request by its headers, and tells of each refused origin once.

    A browser names the site of the page that connects (Origin) and the name under which it found us (Host). They must
    agree, and the name must be one that no stranger can point at us: an address, this machine's own name, or, where
    the server listens on this machine alone, a name of the loopback. Otherwise any page on the web could look through
    the user's browser at the avatar (DNS rebinding). An origin that the user allows may have found us under any name.
    """

    def __init__(self, listening: str, allowed: Sequence[str] = ()) -> None:
        """listening: the address of the server. allowed: origins like https://gpu.example.org:8443.

        ValueError for one that is no origin.
        """
        self._loopback_only, self._listening = listening in LOOPBACK, listening.lower()
        self._allowed = {read_origin(origin) for origin in allowed}
        self._told: set[str] = set()

    def welcome(self, host: str, origin: str | None) -> bool:
        """Whether a request with these headers is answered. Programs that are no browsers send no Origin, and nothing
        on the web can make them connect.
        """
        if origin is None:
            return True
        try:
            site = read_origin(origin)
        except ValueError:
            return False
        if site in self._allowed:
            return True
        scheme, name, _ = site
        try:
            found = _site(urlsplit(f"{scheme}://{host}"))
        except ValueError:
            return False
        return found == site and self._is_ours(name)

    def _is_ours(self, name: str) -> bool:
        if self._loopback_only:
            return name in LOOPBACK
        if name in {*LOOPBACK, *own_names(), self._listening}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def tell(self, host: str, origin: str | None) -> None:
        """Say once for each origin on the terminal that it was refused, and which flag lets it in."""
        origin = origin or ""
        if origin in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(origin)
        try:
            flag = f"--allow_origin {origin_text(read_origin(origin))}"
        except ValueError:
            log.warning("refused a browser: its page has no address (Origin: %s), so no flag can let it in; open the "
                        "viewer's own address in a tab", ascii(origin[:80]))
            return
        log.warning("refused a browser: its page comes from %s, which reached this server as %s. If that is your own "
                    "proxy or port forward, start view.py with %s; if you do not know it, nothing is to be done",
                    origin_text(read_origin(origin)), ascii(host[:80]), flag)


Site = tuple[str, str, int]  # scheme, name, port


def read_origin(origin: str) -> Site:
    """Scheme, name and port of an origin, in small letters, the scheme's own port filled in. ValueError for none."""
    parts = urlsplit(origin)
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"--allow_origin: wanted scheme, name and port alone, like https://gpu.example.org:8443, "
                         f"got {origin!r}")
    try:
        return _site(parts)
    except ValueError:
        raise ValueError(f"--allow_origin: wanted an address like https://gpu.example.org, as the browser's address "
                         f"line begins, got {origin!r}") from None


def origin_text(site: Site) -> str:
    """As a browser writes it: the scheme's own port left out."""
    scheme, name, port = site
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")


def own_names() -> set[str]:
    """Names of this machine, in small letters; no look-up in the network."""
    name = socket.gethostname().lower()
    return {name, name.split(".")[0], f"{name.split('.')[0]}.local"} - {""}


def _site(parts: SplitResult) -> Site:
    name, port = parts.hostname, parts.port  # ValueError for a port that is no number
    if parts.scheme not in _DEFAULT_PORTS or not name or not all(c.isascii() and (c.isalnum() or c in "-._:")
                                                                 for c in name):
        raise ValueError("no web address")
    return parts.scheme, name, _DEFAULT_PORTS[parts.scheme] if port is None else port
