"""What apps send over the network: their packets by hand, by our sender, and malformed ones."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch

from flame.rotations import matrix_from_axis_angle
from reenactment import ifacialmocap, livelink, vmc
from reenactment.arkit import ARKIT_NAMES, arkit_head
from reenactment.livelink import Stamp
from reenactment.motion import angles_of_turn, turn_of_angles
from reenactment.osc import Message, read_packet, write_bundle, write_message
from reenactment.protocols import PROTOCOLS
from reenactment.samples import FaceSample, PacketError

SAMPLE = FaceSample({name: round(k / 100, 2) for k, name in enumerate(ARKIT_NAMES)}, (0.3, -0.2, 0.1))
PROTOCOL_NAMES = list(PROTOCOLS)


def decoded(name: str, packets: list[bytes]) -> list[FaceSample]:
    decode = PROTOCOLS[name].decoder()
    return [sample for packet in packets if (sample := decode(packet)) is not None]


# What the protocols say.


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_a_sample_survives_its_packets(name: str) -> None:
    (found,) = decoded(name, PROTOCOLS[name].encode(SAMPLE, Stamp()))
    assert found.face and found.angles == pytest.approx(SAMPLE.angles, abs=1e-5)
    assert dict(found.scores) == pytest.approx(dict(SAMPLE.scores), abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_a_lost_face_is_told_in_every_protocol(name: str) -> None:
    (found,) = decoded(name, PROTOCOLS[name].encode(FaceSample(face=False), Stamp()))
    assert not found.face


def test_live_link_packet_by_hand() -> None:
    """Built byte by byte from the description in docs/formats.md, not by our own sender."""
    values = [0.0] * 61
    values[17], values[0], values[52], values[53] = 0.75, 0.5, 0.2, -0.1  # JawOpen, EyeBlinkLeft, HeadYaw, HeadPitch
    packet = (b"\x06" + b"\0\0\0\x24" + b"A" * 36 + b"\0\0\0\x05" + b"Maria" + struct.pack(">ifii", 4711, 0.25, 60, 1)
              + b"\x3d" + struct.pack(">61f", *values))
    assert len(packet) == 311
    sample = livelink.decode(packet)
    assert sample.scores["jawOpen"] == pytest.approx(0.75) and sample.scores["eyeBlinkLeft"] == pytest.approx(0.5)
    assert sum(sample.scores.values()) == pytest.approx(1.25) and sample.angles == pytest.approx((0.2, -0.1, 0.0))
    assert livelink.decode(packet[:66]).face is False  # what the app sends while it sees no face
    assert livelink.decode(packet[:66] + b"\0").face is False


def test_live_link_order_is_unreals() -> None:
    assert [ARKIT_NAMES.index(name) for name in ("eyeWideRight", "jawLeft", "jawRight", "mouthLeft", "browInnerUp",
                                                     "cheekPuff", "tongueOut")] == [13, 15, 16, 21, 43, 46, 51]
    assert sorted(ARKIT_NAMES) == sorted(arkit_head().expression_names)


def test_osc_examples_of_the_specification() -> None:
    """The two examples that OSC 1.0 spells out byte by byte."""
    frequency = bytes.fromhex("2f6f7363696c6c61746f722f342f6672657175656e6379002c66000043dc0000")
    assert read_packet(frequency) == [Message("/oscillator/4/frequency", (440.0,))]
    foo = bytes.fromhex("2f666f6f000000002c69697366660000000003e8ffffffff68656c6c6f0000003f9df3b640b5b22d")
    (message,) = read_packet(foo)
    assert message.address == "/foo" and message.arguments[:3] == (1000, -1, "hello")
    assert message.arguments[3:] == pytest.approx((1.234, 5.678))
    assert write_message(Message("/oscillator/4/frequency", (440.0,))) == frequency


def test_osc_bundles_within_bundles() -> None:
    inner = write_bundle([Message("/a", (1,)), Message("/b", ("x", 2.5))])
    outer = b"#bundle\0" + bytes(8) + struct.pack(">i", len(inner)) + inner
    assert [message.address for message in read_packet(outer)] == ["/a", "/b"]


def test_vmc_frame_counts_from_apply_on() -> None:
    decode = vmc.Decoder()
    assert decode(write_message(Message(vmc.VALUE, ("JawOpen", 0.5)))) is None
    assert decode(write_message(Message("/VMC/Ext/Root/Pos", ("root", *[0.0] * 6, 1.0)))) is None
    sample = decode(write_message(Message(vmc.APPLY, ())))
    assert sample is not None and sample.scores["jawOpen"] == 0.5 and sample.angles is None


@pytest.mark.parametrize(("bones", "angles"), [
    # Unity is left-handed, x to the avatar's right: a nod is about +x there as here, other turns have the other sign.
    ({"Head": (math.sin(0.1), 0, 0, math.cos(0.1))}, (0, 0.2, 0)),
    ({"Head": (0, math.sin(0.1), 0, math.cos(0.1))}, (-0.2, 0, 0)),
    ({"Head": (0, 0, math.sin(0.1), math.cos(0.1))}, (0, 0, -0.2)),
    ({"Neck": (0, math.sin(0.1), 0, math.cos(0.1)), "Head": (0, math.sin(0.2), 0, math.cos(0.2))}, (-0.6, 0, 0)),
    ({"Head": (0, 0, 0, 0)}, (0, 0, 0)),  # iFacialMocap's desktop program leaves bones at zero
])
def test_vmc_bones_turn_the_head(bones: dict[str, tuple[float, ...]], angles: tuple[float, ...]) -> None:
    messages = [Message(vmc.BONE, (name, 0.0, 1.5, 0.0, *map(float, quat))) for name, quat in bones.items()]
    (sample,) = decoded("vmc", [write_bundle([*messages, Message(vmc.APPLY, ())])])
    assert sample.angles == pytest.approx(angles, abs=1e-6)


def test_vmc_expressions_of_vrm_and_eye_bones_stand_in_for_arkits() -> None:
    right = (0.0, math.sin(0.1), 0.0, math.cos(0.1))  # both eyes to the avatar's right, by 0.2 rad
    eyes = [Message(vmc.BONE, (name, 0.0, 0.0, 0.0, *right)) for name in ("LeftEye", "RightEye")]
    values = [Message(vmc.VALUE, pair) for pair in (("Blink_L", 1.0), ("A", 0.5), ("Joy", 0.0), ("Strange", 9.0))]
    (sample,) = decoded("vmc", [write_bundle([*values, *eyes, Message(vmc.APPLY, ())])])
    assert sample.scores["eyeBlinkLeft"] == 1 and sample.scores["jawOpen"] == pytest.approx(0.3)
    assert sample.scores.get("eyeBlinkRight", 0) == 0
    assert sample.scores["eyeLookInLeft"] == sample.scores["eyeLookOutRight"] == pytest.approx(0.2 / vmc.GAZE_SIDEWAYS)
    own = [Message(vmc.VALUE, ("JawOpen", 0.1)), Message(vmc.VALUE, ("EyeLookUpLeft", 0.0))]
    (sample,) = decoded("vmc", [write_bundle([*values, *own, *eyes, Message(vmc.APPLY, ())])])
    assert sample.scores["jawOpen"] == pytest.approx(0.1) and "eyeLookInLeft" not in sample.scores


def test_ifacialmocap_text_of_its_documentation() -> None:
    """The sample that the app's maker publishes, shortened; the second form is Facemotion3d's."""
    text = ("mouthSmile_R-12|eyeBlink_L-7|jawOpen-12|mouthLeft-1|=head#-21.488958,-6.038993,-6.6019735,-0.03,-0.1,-0.6|"
            "rightEye#6.0297494,2.4403017,0.25649446|leftEye#6.034903,-1.6660284,-0.17520553|")
    other = text.replace("-12|", "&12|").replace("-7|", "&7|").replace("-1|", "&1|")
    for data in (text, other, "___iFacialMocap|" + text):
        sample = ifacialmocap.decode(data.encode())
        assert dict(sample.scores) == pytest.approx(
            {"mouthSmileRight": 0.12, "eyeBlinkLeft": 0.07, "jawOpen": 0.12, "mouthLeft": 0.01})
        assert sample.angles == pytest.approx([math.radians(v) for v in (-6.038993, -21.488958, -6.6019735)])


def test_angles_and_turns_are_each_others_inverse() -> None:
    for angles in ((0.5, -0.4, 0.3), (-1.2, 0.9, -0.7), (0.0, 0.0, 0.0)):
        assert angles_of_turn(turn_of_angles(*torch.tensor(angles)[:, None])[0]) == pytest.approx(angles, abs=1e-6)


# Malformed packets.

MALFORMED = {
    "livelink": [
        b"", b"\x05" + bytes(200), b"\x06\0\0", b"\x06\xff\xff\xff\xff", b"\x06\0\0\0\2ab\0\0\0\1c" + bytes(3),
        b"\x06\0\0\0\2ab\0\0\0\1c" + bytes(16) + b"\x3d" + bytes(10),
        b"\x06\0\0\0\2ab\0\0\0\1c" + bytes(16) + b"\x34" + bytes(52 * 4),
        livelink.encode(FaceSample({"jawOpen": math.nan}), Stamp()),
        livelink.encode(FaceSample({"jawOpen": 50.0}), Stamp()),
        livelink.encode(FaceSample({}, (math.inf, 0.0, 0.0)), Stamp()),
    ],
    "vmc": [
        b"", b"nonsense", b"/x", b"/VMC\0\0\0\0f\0\0\0", b"/VMC\0\0\0\0,f\0\0\1", b"#bundle\0\0", b"\xff\xfe\0\0",
        b"/a\0\0,s\0\0\xff\xff\0\0", b"/a\0\0,b\0\0\xff\xff\xff\xff", b"/a\0\0,Q\0\0",
        b"#bundle\0" + bytes(8) + struct.pack(">i", -4), b"#bundle\0" + bytes(8) + struct.pack(">i", 0),
        write_bundle([Message(vmc.VALUE, ("JawOpen", math.nan))]),
        write_bundle([Message(vmc.VALUE, ("JawOpen", 70.0))]),
        write_bundle([Message(vmc.VALUE, ("JawOpen",))]), write_bundle([Message(vmc.VALUE, (1, 1.0))]),
        write_bundle([Message(vmc.BONE, ("Head", 0.0, 0.0, 0.0, math.inf, 0.0, 0.0, 1.0))]),
        write_bundle([Message(vmc.BONE, ("Head", 0.0, 0.0, 0.0))]), write_bundle([Message(vmc.VALUE, ())]),
    ],
    "ifacialmocap": [
        b"", b"\xff\xff", b"hello", b"jawOpen-|=head#0,0,0,0,0,0|", b"jawOpen-nan|", b"jawOpen-900|",
        b"jawOpen-1|=head#1,2|", b"jawOpen-1|=head#nan,0,0|", b"jawOpen-1|=head#1e9,0,0|",
        b"GET / HTTP/1.1\r\n\r\n", b"|||", b"jawOpen-1|" * 900,
    ],
}


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_malformed_packets_are_named(name: str) -> None:
    decode = PROTOCOLS[name].decoder()
    for packet in MALFORMED[name]:
        with pytest.raises(PacketError):
            decode(packet)


def test_bundles_may_not_nest_forever() -> None:
    packet = b"#bundle\0" + bytes(8)
    for _ in range(2000):
        packet = b"#bundle\0" + bytes(8) + struct.pack(">i", len(packet)) + packet
    with pytest.raises(PacketError, match="at most 8 bundles"):
        read_packet(packet)


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_mutated_packets_are_samples_or_packet_errors(name: str) -> None:
    """3,000 packets with bytes changed, cut out and put in: no other error, no hang, no number out of range."""
    rng = np.random.default_rng(7)
    whole = PROTOCOLS[name].encode(SAMPLE, Stamp())
    decode, refused = PROTOCOLS[name].decoder(), 0
    for turn in range(3000):
        data = bytearray(whole[turn % len(whole)])
        for _ in range(int(rng.integers(1, 6))):
            at, what = int(rng.integers(0, len(data) + 1)), int(rng.integers(0, 4))
            if what == 0:
                data[at:at + 1] = bytes([int(rng.integers(0, 256))])
            elif what == 1:
                del data[at:at + int(rng.integers(1, 12))]
            elif what == 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            else:
                data[at:at + 4] = b"\xff\xff\xff\xfc"
        try:
            sample = decode(bytes(data))
        except PacketError:
            refused += 1
            continue
        if sample is not None:
            assert set(sample.scores) <= set(ARKIT_NAMES) and all(0 <= v <= 1 for v in sample.scores.values())
            assert sample.angles is None or all(abs(angle) <= 2 * math.pi for angle in sample.angles)
    assert refused > 300


def test_a_malformed_message_undoes_its_whole_packet() -> None:
    decode = vmc.Decoder()
    decode(write_bundle([Message(vmc.VALUE, ("JawOpen", 0.2)), Message(vmc.APPLY, ())]))
    with pytest.raises(PacketError):
        decode(write_bundle([Message(vmc.VALUE, ("JawOpen", 0.9)), Message(vmc.VALUE, ("MouthClose", math.nan))]))
    sample = decode(write_bundle([Message(vmc.APPLY, ())]))
    assert sample is not None and sample.scores == {"jawOpen": pytest.approx(0.2)}


def test_eyes_look_as_their_scores_say() -> None:
    for left, down in ((0.2, 0.1), (-0.3, -0.2)):
        scores = vmc.looks(matrix_from_axis_angle(torch.tensor([0.0, left, 0.0]))
                           @ matrix_from_axis_angle(torch.tensor([down, 0.0, 0.0])), "Left")
        assert (scores["eyeLookOutLeft"] - scores["eyeLookInLeft"]) * vmc.GAZE_SIDEWAYS == pytest.approx(left, abs=1e-6)
        assert (scores["eyeLookDownLeft"] - scores["eyeLookUpLeft"]) * vmc.GAZE_UPRIGHT == pytest.approx(down, abs=1e-6)
