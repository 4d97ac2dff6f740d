"""Packets of Apple's ARKit scores as the app Live Link Face sends them; docs/formats.md has the layout."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from reenactment.arkit import ARKIT_NAMES
from reenactment.samples import (
    NO_FACE,
    FaceSample,
    PacketError,
    checked_angle,
    checked_score,
)

VERSION = 6
LONGEST_NAME = 1024  # bytes, of the device and of the subject
VALUES = len(ARKIT_NAMES) + 9  # scores in Unreal's order; yaw, pitch, roll of the head, the left and the right eye


@dataclass(frozen=True)
class Stamp:
    """Who sends a packet, and its time: frame number and fraction, frames a second as a fraction."""

    device: str = "00000000-0000-0000-0000-000000000000"
    subject: str = "sender"
    frame: int = 0
    part: float = 0.0
    rate: tuple[int, int] = (60, 1)


def decode(packet: bytes) -> FaceSample:
    """The sample of a packet. PacketError for anything else."""
    if not packet or packet[0] != VERSION:
        raise PacketError(f"wanted version {VERSION} of Live Link Face's packets, got "
                          f"{f'version {packet[0]}' if packet else 'an empty packet'}")
    place = 1
    for what in ("the device's name", "the subject's name"):
        place = _after_text(packet, place, what)
    place += struct.calcsize(">ifii")  # frame, fraction, rate
    if len(packet) < place:
        raise PacketError(f"wanted a time, got the end of the packet ({len(packet)} bytes)")
    if packet[place:] in (b"", b"\0"):
        return NO_FACE
    values = packet[place + 1:]
    if packet[place] != VALUES or len(values) != 4 * VALUES:
        raise PacketError(f"wanted {VALUES} numbers, got {packet[place]} in {len(values)} bytes")
    numbers = struct.unpack(f">{VALUES}f", values)
    scores = {name: checked_score(name, value) for name, value in zip(ARKIT_NAMES, numbers, strict=False)}
    yaw, pitch, roll = (checked_angle("head", value) for value in numbers[len(ARKIT_NAMES):len(ARKIT_NAMES) + 3])
    return FaceSample(scores, (yaw, pitch, roll))


def encode(sample: FaceSample, stamp: Stamp) -> bytes:
    """The packet of a sample; the eyes' own angles are sent as 0, as the eyeLook scores say the same."""
    head = struct.pack(">B", VERSION)
    for text in (stamp.device, stamp.subject):
        data = text.encode()
        head += struct.pack(">I", len(data)) + data
    head += struct.pack(">ifii", stamp.frame, stamp.part, *stamp.rate)
    if not sample.face:
        return head
    numbers = [sample.scores.get(name, 0.0) for name in ARKIT_NAMES] + [*(sample.angles or (0.0, 0.0, 0.0)), *[0.0] * 6]
    return head + struct.pack(f">B{VALUES}f", VALUES, *numbers)


def _after_text(packet: bytes, place: int, what: str) -> int:
    """Where a text with its length before it ends."""
    if len(packet) < place + 4:
        raise PacketError(f"wanted {what}, got the end of the packet ({len(packet)} bytes)")
    length = int(struct.unpack_from(">I", packet, place)[0])
    if length > LONGEST_NAME or place + 4 + length > len(packet):
        raise PacketError(f"{what}: wanted at most {min(LONGEST_NAME, len(packet) - place - 4)} bytes, got {length}")
    return place + 4 + length
