"""Who may connect to the viewer: its own pages, those that the user allows, and what is said to the others."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from arguments.view_settings import ViewSettings
from tests.view_client import PageClient
from view import check
from viewer.server import PageServer, addresses
from viewer.visitors import Visitors

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = ("https://gpu.example.org:8443", "http://abc-8080.Proxy.example.net/")


@pytest.mark.parametrize(("listening", "host", "origin", "own"), [
    ("127.0.0.1", "localhost:8080", "http://localhost:8080", True),
    ("127.0.0.1", "127.0.0.1:8080", None, True),
    ("127.0.0.1", "localhost:9000", "http://localhost:9000", True),  # ssh -L 9000:localhost:8080
    ("127.0.0.1", "127.0.0.1:8080", "http://localhost:8080", False),
    ("127.0.0.1", "rebound.example:8080", "http://rebound.example:8080", False),
    ("127.0.0.1", "192.168.1.5:8080", "http://192.168.1.5:8080", False),
    ("127.0.0.1", "localhost:8080", "https://gpu.example.org:8443", True),  # allowed, the proxy rewrites Host
    ("127.0.0.1", "gpu.example.org", "https://gpu.example.org:8443", True),  # or leaves the port out
    ("127.0.0.1", "localhost:8080", "https://gpu.example.org", False),
    ("127.0.0.1", "localhost:8080", "http://ABC-8080.proxy.example.net", True),
    ("127.0.0.1", "localhost:8080", "null", False),
    ("0.0.0.0", "192.168.1.5:8080", "http://192.168.1.5:8080", True),
    ("0.0.0.0", "[fd00::5]:8080", "http://[fd00::5]:8080", True),
    ("0.0.0.0", "localhost:8080", "http://localhost:8080", True),
    ("0.0.0.0", f"{socket.gethostname()}:8080", f"http://{socket.gethostname()}:8080", True),
    ("0.0.0.0", "rebound.example:8080", "http://rebound.example:8080", False),
    ("0.0.0.0", "192.168.1.5:8080", "http://other:8080", False),
    ("0.0.0.0", "gpu.example.org", "https://gpu.example.org:8443", True),
    ("workstation.lan", "workstation.lan:8080", "http://workstation.lan:8080", True),
    ("0.0.0.0", "a:b:c", "http://a:b:c", False),
])
def test_own_pages_are_told_from_others(listening: str, host: str, origin: str | None, own: bool) -> None:
    assert Visitors(listening, ALLOWED).welcome(host, origin) is own


@pytest.mark.parametrize("origin", ["gpu.example.org", "ftp://gpu.example.org", "https://", "https://a/path", "null",
                                    "https://a:port", "https://me@a", "https://a b"])
def test_what_is_no_origin_is_refused_as_a_flag(origin: str) -> None:
    with pytest.raises(ValueError, match=r"--allow_origin: wanted .*, got "):
        Visitors("127.0.0.1", (origin,))
    with pytest.raises(ValueError, match="--allow_origin: wanted"):
        check(ViewSettings(ROOT, allow_origin=(origin,)))


def test_a_refusal_names_the_flag_that_helps_once_per_origin(caplog: pytest.LogCaptureFixture) -> None:
    visitors = Visitors("127.0.0.1")
    for _ in range(3):
        visitors.tell("localhost:8080", "https://gpu.example.org:8443")
    visitors.tell("localhost:8080", "null")
    visitors.tell("localhost:8080", "https://evil\x1b[2J")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "page comes from https://gpu.example.org:8443" in said[0] and "'localhost:8080'" in said[0]
    assert "start view.py with --allow_origin https://gpu.example.org:8443" in said[0]
    assert "no address" in said[1] and "\x1b" not in said[2]
    for number in range(100):
        visitors.tell("localhost:8080", f"https://a{number}.example")
    assert len(caplog.records) <= 20, "a page that invents names must not fill the terminal"


@pytest.mark.parametrize(("host", "wanted"), [("127.0.0.1", ["http://localhost:1"]), ("::1", ["http://[::1]:1"]),
                                              ("10.0.0.1", ["http://10.0.0.1:1"])])
def test_where_the_page_is_found(host: str, wanted: list[str]) -> None:
    assert addresses(host, 1) == wanted
    both = addresses("0.0.0.0", 1)
    assert both[0] == "http://localhost:1" and socket.gethostname().split(".")[0].lower() in both[1]


def test_an_allowed_origin_reaches_the_page(caplog: pytest.LogCaptureFixture) -> None:
    server = PageServer("127.0.0.1", 0, "own", ALLOWED)
    try:
        own = PageClient(server.get_port(), Origin=ALLOWED[0])
        own.listen(0.5)  # ConnectionClosed if it were refused
        own.close()
        assert not caplog.records
        stranger = PageClient(server.get_port(), Origin="https://evil.example")
        with pytest.raises(ConnectionClosed):
            stranger.listen(5)
        assert "--allow_origin https://evil.example" in caplog.text
    finally:
        server.stop()
