"""A UDP port on which an app sends a face: the newest sample counts, nothing waits in a queue."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from typing_extensions import Self

from arguments.stream_settings import StreamSettings
from reenactment.face import Seen
from reenactment.ifacialmocap import GREETING
from reenactment.protocols import PROTOCOLS, read_protocol
from reenactment.samples import FaceSample, PacketError, SampleReader

log = logging.getLogger("reenact")

LARGEST_PACKET = 65_535  # bytes, of UDP
SILENCE = 2.0  # seconds without a sample after which it is said; another sender may take over from then on
GREETING_INTERVAL = 1.0  # seconds between requests for a stream while none comes


class Receiver:
    """Listens on one port, in a thread of its own. A context manager.

    Malformed packets change nothing: they are counted, and the first one is told. So are packets of a second sender
    while the first one sends. malformed, strangers: how many of each came.
    """

    def __init__(self, protocol: str, host: str = "127.0.0.1", phone: str | None = None) -> None:
        """protocol: as `read_protocol` has it. phone: where to ask iFacialMocap for its stream.

        ValueError, naming the flag (--udp, --udp_host, --phone), when it cannot be listened there.
        """
        self._name, port = read_protocol(protocol, "--udp")
        self._protocol, self._host = PROTOCOLS[self._name], host
        self._socket = _bound(host, port, self._name)
        self.port = int(self._socket.getsockname()[1])
        self._phone = None if phone is None else (_address(phone, self._socket.family), self._protocol.port)
        self._decode = self._protocol.decoder()
        self.packets = self.malformed = self.strangers = 0
        self._new = threading.Condition()
        self._newest: tuple[int, float, FaceSample] | None = None
        self._sender: str | None = None
        self._came = time.perf_counter()
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        """What is listened to, in words."""
        return f"{self._protocol.title} on UDP port {self.port} of {self._host}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()
        self._socket.close()

    def newest(self, after: int, patience: float) -> tuple[int, float, FaceSample] | None:
        """Number, time of arrival (time.perf_counter) and value of the newest sample after number `after`; None when
        none came in `patience` seconds.
        """
        with self._new:
            self._new.wait_for(lambda: self._newest is not None and self._newest[0] > after, timeout=patience)
            return self._newest if self._newest is not None and self._newest[0] > after else None

    def _read(self) -> None:
        asked = 0.0
        self._socket.settimeout(0.1)
        while not self._stopped:
            now = time.perf_counter()
            if self._phone is not None and now - max(self._came, asked) > GREETING_INTERVAL:
                asked = now
                with suppress(OSError):  # a phone that is not there yet
                    self._socket.sendto(GREETING, self._phone)
            try:
                packet, address = self._socket.recvfrom(LARGEST_PACKET)
            except OSError:  # nothing came, or the answer to a greeting that nobody took
                continue
            self._take(packet, str(address[0]))

    def _take(self, packet: bytes, sender: str) -> None:
        now = time.perf_counter()
        self.packets += 1
        if self._sender not in (None, sender) and now - self._came < SILENCE:
            self.strangers += 1
            if self.strangers == 1:
                log.warning("%s: passed over packets of %s while %s sends", self.place, sender, self._sender)
            return
        if sender != self._sender:
            self._decode = self._protocol.decoder()
        try:
            sample = self._decode(packet)
        except PacketError as error:
            self.malformed += 1
            if self.malformed == 1:
                log.warning("%s: passed over a malformed packet of %s (%s); further ones are only counted", self.place,
                            sender, error)
            return
        if sample is None:
            return
        with self._new:
            self._sender, self._came = sender, now
            self._newest = (0 if self._newest is None else self._newest[0]) + 1, now, sample
            self._new.notify_all()

    def faces(self, reader: SampleReader) -> Iterator[tuple[float, float, Seen]]:
        """Time of arrival, seconds that reading took, and the newest face, over and over.

        Says when nothing comes, when the app has lost the face, and when they are back.
        """
        number, silent, lost = 0, False, False
        while True:
            newest = self.newest(number, SILENCE)
            if newest is None:
                if not silent:
                    log.warning("%s", self._silence())
                silent = True
                continue
            number, arrived, sample = newest
            if silent:
                log.info("%s: the stream is there", self.place)
                silent = False
            if lost == sample.face:
                lost = not sample.face
                what = "the app sees no face; the avatar waits" if lost else "the face is back"
                log.warning("%s: %s", self.place, what)
            if sample.face:
                started = time.perf_counter()
                seen = reader.read(sample, arrived)
                yield arrived, time.perf_counter() - started, seen

    def _silence(self) -> str:
        unread = self.packets - self.strangers
        if self._sender is not None:
            return f"{self.place}: nothing has come for {SILENCE:.0f} s; the avatar waits"
        if unread:
            return (f"{self.place}: {unread} packets came, none with a whole frame ({self.malformed} malformed); is it "
                    "this protocol that the app sends?")
        far = " (127.0.0.1 hears this machine alone: for another device --udp_host 0.0.0.0)"
        return f"{self.place}: nothing has come yet; {self._protocol.advice}{far if self._host == '127.0.0.1' else ''}"

    def sentence(self) -> str:
        """What came, in words."""
        return (f"{self.packets} packets, {0 if self._newest is None else self._newest[0]} frames, {self.malformed} "
                f"malformed, {self.strangers} of other senders")


def check_stream(stream: StreamSettings) -> None:
    """ValueError for settings of a live driver that contradict or make no sense."""
    if not 0 <= stream.calibrate <= 60:
        raise ValueError(f"--calibrate: wanted 0 to 60, got {stream.calibrate}")
    name = None if stream.udp is None else read_protocol(stream.udp, "--udp")[0]
    if stream.phone is not None and name != "ifacialmocap":
        raise ValueError("--phone: asks iFacialMocap for its stream; it goes with --udp ifacialmocap alone")


def open_receiver(stream: StreamSettings) -> tuple[Receiver, SampleReader]:
    """Listen as --udp says. ValueError, naming the flag, when that cannot be."""
    assert stream.udp is not None
    receiver = Receiver(stream.udp, stream.udp_host, stream.phone)
    log.info("Listening: %s; %s.", receiver.place, PROTOCOLS[read_protocol(stream.udp, "--udp")[0]].advice)
    return receiver, SampleReader(stream.head_flip)


def _bound(host: str, port: int, name: str) -> socket.socket:
    """A socket that listens. ValueError naming the port or the host that is none."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        found = socket.socket(family, kind, number)
    except OSError as error:
        raise ValueError(f"--udp_host: {host} is no address ({error.strerror})") from None
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"--udp {name}: UDP port {port} on {host} is in use by another program (Unreal, a VTuber "
                             f"app, a second reenact.py?); end it, or take another port in the app and here: --udp "
                             f"{name}:{port + 1}") from None
        what = "is not allowed to you" if error.errno == errno.EACCES else "cannot be listened on"
        raise ValueError(f"--udp {name}: UDP port {port} on {host} {what} ({error.strerror})") from None
    return found


def _address(phone: str, family: socket.AddressFamily) -> str:
    try:
        return str(socket.getaddrinfo(phone, None, family, socket.SOCK_DGRAM)[0][4][0])
    except OSError as error:
        raise ValueError(f"--phone: {phone} is no address ({error.strerror})") from None
