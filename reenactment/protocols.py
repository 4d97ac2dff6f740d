"""The protocols in which apps send a face over UDP: their usual ports, how they are read, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reenactment import ifacialmocap, livelink, vmc
from reenactment.livelink import Stamp
from reenactment.samples import FaceSample

Decoder = Callable[[bytes], FaceSample | None]


@dataclass(frozen=True)
class Protocol:
    """decoder: makes what turns packets into samples, one for each sender. encode: the packets of a sample.
    advice: what to set in the app.
    """

    title: str
    port: int
    decoder: Callable[[], Decoder]
    encode: Callable[[FaceSample, Stamp], list[bytes]]
    advice: str


PROTOCOLS = {
    "livelink": Protocol(
        "Live Link Face", 11111, lambda: livelink.decode, lambda sample, stamp: [livelink.encode(sample, stamp)],
        "choose Live Link (ARKit) in the app, and this machine's address and the port among its targets"),
    "vmc": Protocol(
        "VMC", 39539, vmc.Decoder, lambda sample, _: vmc.encode(sample),
        "let the app send by the VMC protocol to this machine's address and the port"),
    "ifacialmocap": Protocol(
        "iFacialMocap", 49983, lambda: ifacialmocap.decode, lambda sample, _: [ifacialmocap.encode(sample)],
        "give the phone's address with --phone, so that the app is asked for its stream"),
}


def read_protocol(text: str, flag: str) -> tuple[str, int]:
    """Name and port of `NAME` or `NAME:PORT`. ValueError, naming the flag, for anything else."""
    name, _, port = text.partition(":")
    if name not in PROTOCOLS or (":" in text and not (port.isascii() and port.isdigit() and int(port) < 2**16)):
        raise ValueError(f"{flag}: wanted {', '.join(PROTOCOLS)}, with :PORT (0 to 65535) where it is not the usual "
                         f"one, got {text!r}")
    return name, int(port) if port else PROTOCOLS[name].port
