"""The settings of whoever is driven by an app on the network: reenact.py and view.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StreamSettings:
    """A live driver; docs/reenact.md has examples."""

    udp: str | None = None
    """Protocol in which an app on the network drives, live: livelink (Live Link Face), vmc (VMagicMirror and others) or
    ifacialmocap; with :PORT where it is not the usual one (11111, 39539, 49983)."""
    udp_host: str = "127.0.0.1"
    """Address on which --udp listens: this machine alone, unless you say 0.0.0.0 (then any device that reaches it can
    drive)."""
    phone: str | None = None
    """With --udp ifacialmocap: address of the phone, which is asked for its stream."""
    head_flip: tuple[Literal["yaw", "pitch", "roll"], ...] = ()
    """Head angles of a CSV or of --udp whose sign to turn, if the avatar turns the other way."""
    calibrate: float = 2.0
    """Seconds at the start of a live driver during which you look neutral; --center takes them as your habit."""
