"""Open Sound Control 1.0: the messages of a packet, and packets of messages.

Of our own because a reader for packets of strangers must end: python-osc 1.10.2 loops forever over a bundle whose
element has a negative length, and lets errors other than its own through.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reenactment.samples import PacketError

BUNDLE = b"#bundle\0"
AT_ONCE = b"\0\0\0\0\0\0\0\1"  # the time tag of "immediately"
DEEPEST = 8  # bundles within bundles; apps send one

Argument = float | int | str | bytes | bool | None
_NUMBERS = {"i": ">i", "h": ">q", "f": ">f", "d": ">d"}
_CONSTANTS: dict[str, Argument] = {"T": True, "F": False, "N": None, "I": True}


@dataclass(frozen=True)
class Message:
    """An address and its arguments."""

    address: str
    arguments: tuple[Argument, ...]


def read_packet(packet: bytes) -> list[Message]:
    """All messages of a packet, in order. PacketError when any part of it is malformed."""
    return list(_elements(packet, 0))


def write_bundle(messages: Sequence[Message]) -> bytes:
    """One bundle of messages; arguments are int, float (32 bits) or str."""
    data = BUNDLE + AT_ONCE
    for message in messages:
        element = write_message(message)
        data += struct.pack(">i", len(element)) + element
    return data


def write_message(message: Message) -> bytes:
    """One message; arguments are int, float (32 bits) or str."""
    tags, values = ",", b""
    for argument in message.arguments:
        if isinstance(argument, str):
            tags, values = tags + "s", values + _padded(argument)
        else:
            tag = "i" if isinstance(argument, int) else "f"
            tags, values = tags + tag, values + struct.pack(_NUMBERS[tag], argument)
    return _padded(message.address) + _padded(tags) + values


def _elements(data: bytes, depth: int) -> Iterator[Message]:
    if not data.startswith(BUNDLE):
        yield _message(data)
        return
    if depth >= DEEPEST:
        raise PacketError(f"wanted at most {DEEPEST} bundles within each other")
    place = len(BUNDLE) + len(AT_ONCE)
    if len(data) < place:
        raise PacketError("a bundle without a time")
    while place < len(data):
        size = int(_number("i", data, place))
        if not 0 < size <= len(data) - place - 4:
            raise PacketError(f"bundle: wanted an element of 1 to {len(data) - place - 4} bytes, got {size}")
        yield from _elements(data[place + 4:place + 4 + size], depth + 1)
        place += 4 + size


def _message(data: bytes) -> Message:
    address, place = _text(data, 0)
    if not address.startswith("/"):
        raise PacketError(f"wanted an OSC address, got {address[:40]!a}")
    if place == len(data):
        return Message(address, ())
    tags, place = _text(data, place)
    if not tags.startswith(","):
        raise PacketError(f"{address[:40]!a}: wanted types of arguments, got {tags[:20]!a}")
    arguments: list[Argument] = []
    for tag in tags[1:]:
        if tag in _NUMBERS:
            arguments.append(_number(tag, data, place))
            place += struct.calcsize(_NUMBERS[tag])
        elif tag in "sS":
            text, place = _text(data, place)
            arguments.append(text)
        elif tag == "b":
            blob, place = _blob(data, place)
            arguments.append(blob)
        elif tag in _CONSTANTS:
            arguments.append(_CONSTANTS[tag])
        else:
            raise PacketError(f"{address[:40]!a}: wanted arguments of types ifsbhdTFNI, got {tag!a}")
    return Message(address, tuple(arguments))


def _number(tag: str, data: bytes, place: int) -> float:
    try:
        return float(struct.unpack_from(_NUMBERS[tag], data, place)[0])
    except struct.error:
        raise PacketError(f"wanted a number, got the end of the packet ({len(data)} bytes)") from None


def _text(data: bytes, place: int) -> tuple[str, int]:
    """A text that ends with a zero byte, filled up to four bytes, and where it ends."""
    end = data.find(b"\0", place)
    if end < 0:
        raise PacketError("a text without an end")
    try:
        return data[place:end].decode(), place + (end - place) // 4 * 4 + 4
    except UnicodeDecodeError:
        raise PacketError("wanted a text in UTF-8, got other bytes") from None


def _blob(data: bytes, place: int) -> tuple[bytes, int]:
    size = int(_number("i", data, place))
    if not 0 <= size <= len(data) - place - 4:
        raise PacketError(f"wanted a blob of at most {len(data) - place - 4} bytes, got {size}")
    return data[place + 4:place + 4 + size], place + 4 + (size + 3) // 4 * 4


def _padded(text: str) -> bytes:
    data = text.encode()
    return data + b"\0" * (4 - len(data) % 4)
