#!/usr/bin/env python3
"""Play a driver as the packets of an app: python -m reenactment.send take.csv --udp livelink  (--help).

A phone's part without a phone, for trying and testing reenact.py --udp and view.py --udp.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import tyro

from arguments import parse_flags
from flame.rotations import matrix_from_axis_angle
from reenactment.arkit import ARKIT_NAMES
from reenactment.curves import Curves
from reenactment.driver import Driver, open_driver
from reenactment.livelink import Stamp
from reenactment.motion import FLIP, angles_of_turn
from reenactment.protocols import PROTOCOLS, read_protocol
from reenactment.samples import FaceSample
from reenactment.vmc import looks

log = logging.getLogger("send")


@dataclass(frozen=True)
class SendSettings:
    """Send a driver's frames over UDP, as a capture app does."""

    driver: tyro.conf.Positional[Path]
    """What is sent: a CSV of ARKit blendshapes, or a run or data set of the open head."""
    udp: str = "livelink"
    """In which protocol and to which port: livelink, vmc or ifacialmocap, with :PORT where it is not the usual one."""
    to: str = "127.0.0.1"
    """Address of the machine that receives."""
    fps: float | None = None
    """Frames a second; default: the driver's own, or 30 where it does not tell."""
    loop: bool = False
    """Start again at the end, until Ctrl-C."""


def samples_of(driver: Driver) -> list[FaceSample]:
    """The frames of a driver of ARKit's head. ValueError for another head."""
    if not set(ARKIT_NAMES) <= set(driver.head.expression_names):
        raise ValueError(f"{driver.name}: wanted codes of ARKit's expressions, got those of head '{driver.head.name}'")
    columns = [driver.head.expression_names.index(name) for name in ARKIT_NAMES]
    scores = driver.codes.expression[:, columns].clamp(0, 1)
    gaze = Curves.of(driver.codes).gaze.unflatten(1, (2, 3))
    samples = []
    for frame in range(len(driver)):
        named = dict(zip(ARKIT_NAMES, scores[frame].tolist(), strict=True))
        for side, turn in zip(("Left", "Right"), matrix_from_axis_angle(gaze[frame]), strict=True):
            named |= looks(turn, side)
        angles = None if driver.motion is None else angles_of_turn(FLIP @ driver.motion.R[frame])
        samples.append(FaceSample(named, angles))
    return samples


def send(samples: list[FaceSample], protocol: str, address: tuple[str, int], fps: float, loop: bool = False) -> int:
    """Send samples at their pace and return how many packets that were. OSError when the address cannot be reached."""
    encode, sent = PROTOCOLS[protocol].encode, 0
    family = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        began = time.perf_counter()
        for number, sample in enumerate(_played(samples, loop)):
            time.sleep(max(0.0, began + number / fps - time.perf_counter()))
            for packet in encode(sample, Stamp(frame=number, rate=(round(fps), 1))):
                out.sendto(packet, address)
                sent += 1
    return sent


def _played(samples: list[FaceSample], loop: bool) -> Iterator[FaceSample]:
    for _ in count() if loop else range(1):
        yield from samples


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = parse_flags(SendSettings, "reenactment.send")
    try:
        if settings.fps is not None and not 0 < settings.fps <= 240:
            raise ValueError(f"--fps: wanted more than 0 and at most 240, got {settings.fps}")
        protocol, port = read_protocol(settings.udp, "--udp")
        driver = open_driver(settings.driver)
        fps = settings.fps or driver.fps or 30.0
        log.info("%d frames at %.4g a second to UDP port %d of %s (%s)", len(driver), fps, port, settings.to,
                 PROTOCOLS[protocol].title)
        sent = send(samples_of(driver), protocol, (settings.to, port), fps, settings.loop)
        log.info("%d packets", sent)
    except KeyboardInterrupt:
        log.info("")
    except (ValueError, OSError) as error:
        sys.exit(f"reenactment.send: {error}")


if __name__ == "__main__":
    main()
