"""Apps that drive over the network: the port that hears them, and what the avatar does."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments.stream_settings import StreamSettings
from reenactment import ifacialmocap, livelink, receiver
from reenactment.arkit import arkit_head
from reenactment.driver import open_driver
from reenactment.film import Painter
from reenactment.livelink import Stamp
from reenactment.motion import FLIP, turn_of_angles
from reenactment.osc import Message, write_message
from reenactment.performance import Actor, Cures
from reenactment.protocols import PROTOCOLS, read_protocol
from reenactment.receiver import Receiver, check_stream, open_receiver
from reenactment.samples import FaceSample, SampleReader
from reenactment.send import samples_of, send
from reenactment.webcam import Delays, Follower, Mirror, live
from tests.player_subject import lively_player
from tests.test_reenact_drivers import live_link
from tests.test_reenact_packets import MALFORMED, PROTOCOL_NAMES, SAMPLE

# The port.


@contextlib.contextmanager
def listening(name: str) -> Iterator[tuple[Receiver, socket.socket]]:
    """A receiver on a free port, and a socket that sends to it."""
    with Receiver(f"{name}:0") as found, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", found.port))
        yield found, out


def speaking(jaw: float) -> list[bytes]:
    return PROTOCOLS["livelink"].encode(FaceSample({"jawOpen": jaw}), Stamp())


def test_the_newest_packet_wins() -> None:
    with listening("livelink") as (found, out):
        for k in range(50):
            out.send(speaking(k / 100)[0])
        end = time.monotonic() + 10
        while found.packets < 50 and time.monotonic() < end:
            time.sleep(0.01)
        newest = found.newest(0, 1.0)
        assert newest is not None and newest[0] == 50 and newest[2].scores["jawOpen"] == pytest.approx(0.49)
        assert found.newest(50, 0.05) is None


def test_malformed_packets_change_nothing_and_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with listening("livelink") as (found, out):
        out.send(speaking(0.25)[0])
        for packet in MALFORMED["livelink"]:
            out.send(packet)
        end = time.monotonic() + 10
        while found.packets <= len(MALFORMED["livelink"]) and time.monotonic() < end:
            time.sleep(0.01)
        newest = found.newest(0, 1.0)
        assert newest is not None and newest[0] == 1 and newest[2].scores["jawOpen"] == pytest.approx(0.25)
        assert found.malformed == len(MALFORMED["livelink"])
        assert "10 malformed" in found.sentence()
    told = [record.message for record in caplog.records if "malformed" in record.message]
    assert len(told) == 1 and "got an empty packet" in told[0] and "127.0.0.1" in told[0]


def test_silence_and_a_lost_face_are_said_and_so_is_their_end(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(receiver, "SILENCE", 0.2)
    caplog.set_level(logging.INFO)
    with listening("livelink") as (found, out):
        def app() -> None:
            time.sleep(0.5)
            nobody = livelink.encode(FaceSample(face=False), Stamp())
            for packet in (speaking(0.1)[0], nobody, speaking(0.2)[0]):
                out.send(packet)
                time.sleep(0.1)
            time.sleep(0.4)
            out.send(speaking(0.3)[0])

        faces = found.faces(SampleReader())
        thread = threading.Thread(target=app)
        thread.start()
        seen = [next(faces) for _ in range(3)]
        thread.join()
    said = [record.message.split(": ", 1)[1] for record in caplog.records]
    assert said[0].startswith("nothing has come yet; choose Live Link (ARKit)") and "--udp_host 0.0.0.0" in said[0]
    assert said[1:] == ["the stream is there", "the app sees no face; the avatar waits", "the face is back",
                        "nothing has come for 0 s; the avatar waits", "the stream is there"]
    assert [first for first, _, _ in seen] == sorted(first for first, _, _ in seen)


def test_packets_of_another_protocol_are_told(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(receiver, "SILENCE", 0.2)
    reader = SampleReader()
    with listening("livelink") as (found, out):
        out.send(PROTOCOLS["vmc"].encode(SAMPLE, Stamp())[0])
        out.send(speaking(0.1)[0])
        next(found.faces(reader))
        assert found.malformed == 1
    with listening("vmc") as (found, out):
        out.send(write_message(Message("/avatar/parameters/x", (1,))))
        right = PROTOCOLS["vmc"].encode(SAMPLE, Stamp())
        threading.Timer(0.6, lambda: [out.send(packet) for packet in right]).start()
        next(found.faces(reader))
    assert "1 packets came, none with a whole frame (0 malformed); is it this protocol" in caplog.text


def test_a_second_sender_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with listening("livelink") as (found, out), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        out.send(speaking(0.1)[0])
        assert found.newest(0, 5.0) is not None
        for _ in range(3):
            other.sendto(speaking(0.9)[0], ("127.0.0.1", found.port))
        out.send(speaking(0.2)[0])
        newest = found.newest(1, 5.0)
        assert newest is not None and newest[2].scores["jawOpen"] == pytest.approx(0.2) and found.strangers == 3
    assert caplog.text.count("passed over packets of 127.0.0.2 while 127.0.0.1 sends") == 1


def test_the_phone_is_asked_for_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.3", 0))
        phone.settimeout(10)
        protocol = replace(PROTOCOLS["ifacialmocap"], port=phone.getsockname()[1])
        monkeypatch.setitem(PROTOCOLS, "ifacialmocap", protocol)
        monkeypatch.setattr(receiver, "GREETING_INTERVAL", 0.1)
        with Receiver("ifacialmocap:0", phone="127.0.0.3") as found:
            asked, address = phone.recvfrom(1000)
            assert asked == ifacialmocap.GREETING and address[1] == found.port
            phone.sendto(ifacialmocap.encode(SAMPLE), address)
            newest = found.newest(0, 5.0)
            assert newest is not None and newest[2].scores["jawOpen"] == pytest.approx(SAMPLE.scores["jawOpen"])


def test_a_port_in_use_is_named() -> None:
    with Receiver("vmc:0") as found:
        wanted = rf"--udp vmc: UDP port {found.port} on 127.0.0.1 is in use .* --udp vmc:{found.port + 1}"
        with pytest.raises(ValueError, match=wanted):
            Receiver(f"vmc:{found.port}")


@pytest.mark.parametrize(("stream", "message"), [
    (StreamSettings("unreal"), "--udp: wanted livelink, vmc, ifacialmocap, with :PORT .* got 'unreal'"),
    (StreamSettings("vmc:"), "--udp: wanted livelink"),
    (StreamSettings("vmc:70000"), "--udp: wanted livelink"),
    (StreamSettings("vmc:-1"), "--udp: wanted livelink"),
    (StreamSettings("vmc:0", "not a host"), "--udp_host: not a host is no address"),
    (StreamSettings("vmc:0", "192.0.2.1"), "--udp vmc: UDP port 0 on 192.0.2.1 cannot be listened on"),
    (StreamSettings("ifacialmocap:0", phone="not a phone"), "--phone: not a phone is no address"),
    (StreamSettings("vmc", phone="192.0.2.1"), "--phone: asks iFacialMocap for its stream"),
    (StreamSettings("vmc", calibrate=-1), "--calibrate: wanted 0 to 60, got -1"),
])
def test_bad_settings_are_told(stream: StreamSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_stream(stream)
        open_receiver(stream)


def test_usual_ports() -> None:
    assert [read_protocol(name, "--udp")[1] for name in PROTOCOL_NAMES] == [11111, 39539, 49983]
    assert read_protocol("vmc:0", "--udp") == ("vmc", 0)


# What becomes of it.


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_a_take_sent_as_packets_drives_as_its_file_does(name: str, tmp_path: Path) -> None:
    rows = [{"JawOpen": 0.4, "EyeBlinkLeft": 0.3, "EyeLookOutLeft": 0.5, "EyeLookInRight": 0.5, "HeadYaw": 0.3,
             "HeadPitch": -0.2}] * 3
    take = open_driver(live_link(tmp_path / "take.csv", rows))
    assert take.motion is not None
    with Receiver(f"{name}:0") as found:
        assert send(samples_of(take), name, ("127.0.0.1", found.port), 100) >= 3
        newest = found.newest(0, 5.0)
        assert newest is not None
        seen = SampleReader().read(newest[2], newest[1])
    # A hundredth: iFacialMocap sends whole per cent.
    assert torch.allclose(seen.codes.expression[0], take.codes.expression[0], atol=0.011)
    assert torch.allclose(seen.codes.jaw[0], take.codes.jaw[0], atol=0.011)
    assert torch.allclose(seen.codes.eyes[0], take.codes.eyes[0], atol=0.011)
    assert torch.allclose(seen.motion.R[0], take.motion.R[0], atol=1e-4)


def test_flipped_angles_turn_the_other_way() -> None:
    turned = SampleReader(("yaw",)).read(SAMPLE, 0.0).motion.R[0]
    assert torch.allclose(turned, FLIP @ turn_of_angles(*torch.tensor([-0.3, -0.2, 0.1])[:, None])[0], atol=1e-6)


def test_the_avatar_follows_the_app_without_delay() -> None:
    """Drawn through the whole chain; each picture comes of the newest packet, however many came meanwhile."""
    player = lively_player()
    follower = Follower(Actor(player, arkit_head(), Cures("none", "none")), calibrate=0.0, moves=True)
    mirror = Mirror(follower, Painter(player, 48, 48, (0, 0, 0), batch=1), (48, 48))
    turning = [FaceSample({"jawOpen": k / 60}, (0.3 * k / 60, 0.0, 0.0)) for k in [*[0] * 30, *range(60), *[60] * 30]]
    delays = Delays()
    shown: list[np.ndarray] = []
    with Receiver("livelink:0") as found:
        thread = threading.Thread(target=send, args=(turning, "livelink", ("127.0.0.1", found.port), 120))
        thread.start()
        for arrived, _ in live(found.faces(SampleReader()), mirror, delays, shown.append):
            newest = found.newest(0, 0.0)
            if newest is not None and newest[:2] == (len(turning), arrived):
                break
        thread.join()
    assert np.abs(shown[-1].astype(int) - shown[0]).mean() > 1
    assert float(np.median(list(delays.total))) < 0.25  # one picture's time on a busy machine; a queue takes more


def test_sender_refuses_another_head(tmp_path: Path) -> None:
    take = open_driver(live_link(tmp_path / "take.csv", [{}] * 3))
    strange = replace(take, head=replace(take.head, expression_names=tuple(f"exp{k}" for k in range(52))))
    with pytest.raises(ValueError, match="take: wanted codes of ARKit's expressions, got those of head 'open_head'"):
        samples_of(strange)
