"""The VMC protocol (OSC): blend shapes and bones of an avatar, as VMagicMirror, iFacialMocap and their like send them.

Bones turn in Unity's axes, left-handed, x to the avatar's right, y up, z forward: mirrored in x, they are the head's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flame.rotations import matrix_from_quat, quat_from_matrix
from reenactment.arkit import GAZE_SIDEWAYS, GAZE_UPRIGHT, score_key
from reenactment.motion import angles_of_turn, turn_of_angles
from reenactment.osc import Message, read_packet, write_bundle
from reenactment.samples import ARKIT_KEYS, NO_FACE, Angles, FaceSample, PacketError, checked_score

VALUE, APPLY, BONE, STATUS = "/VMC/Ext/Blend/Val", "/VMC/Ext/Blend/Apply", "/VMC/Ext/Bone/Pos", "/VMC/Ext/OK"
TURNING = ("Neck", "Head")  # what they turn together is the turn of the head
EYES = {"LeftEye": "Left", "RightEye": "Right"}
# VRM's own expressions (0.x and 1.0), by `score_key`, for senders without ARKit's: what each is made of.
VRM = {
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "a": {"jawOpen": 0.6}, "aa": {"jawOpen": 0.6},
    "o": {"jawOpen": 0.4, "mouthFunnel": 0.6}, "oh": {"jawOpen": 0.4, "mouthFunnel": 0.6},
    "u": {"mouthPucker": 0.8}, "ou": {"mouthPucker": 0.8},
    "i": {"mouthStretchLeft": 0.6, "mouthStretchRight": 0.6}, "ih": {"mouthStretchLeft": 0.6, "mouthStretchRight": 0.6},
    "joy": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8}, "happy": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
    "blinkleft": {"eyeBlinkLeft": 1.0}, "blinkright": {"eyeBlinkRight": 1.0},
}


class Decoder:
    """Puts the frames of a sender together: values and bones count from when `Blend/Apply` comes."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._bones: dict[str, Tensor] = {}
        self._tracked = True

    def __call__(self, packet: bytes) -> FaceSample | None:
        """The frame that a packet completes, None where it completes none. PacketError, and nothing changed, when any
        of its messages is malformed.
        """
        values, bones, tracked, complete = dict(self._values), dict(self._bones), self._tracked, False
        for message in read_packet(packet):
            if message.address == VALUE:
                name, value = _named(message, 1)
                if score_key(name) in ARKIT_KEYS or score_key(name) in VRM:
                    values[score_key(name)] = checked_score(ascii(name), value[0])
            elif message.address == BONE:
                name, numbers = _named(message, 7)
                if name in TURNING or name in EYES:
                    bones[name] = _turn(numbers[3:])
            elif message.address == STATUS:
                tracked = len(message.arguments) < 4 or message.arguments[3] != 0
            elif message.address == APPLY:
                complete = True
        self._values, self._bones, self._tracked = values, bones, tracked
        if not complete:
            return None
        return FaceSample(_scores(values, bones), _angles(bones)) if tracked else NO_FACE


def encode(sample: FaceSample) -> list[bytes]:
    """The packets of a sample: the head's bone, then the scores and their `Apply`."""
    if not sample.face:
        return [write_bundle([Message(STATUS, (1, 3, 0, 0)), Message(APPLY, ())])]
    values = [Message(VALUE, (key, float(value))) for key, value in sample.scores.items()]
    x, y, z, w = _unity(turn_of_angles(*torch.tensor(sample.angles or (0.0, 0.0, 0.0))[:, None])[0])
    bone = Message(BONE, ("Head", 0.0, 0.0, 0.0, x, y, z, w))
    return [write_bundle([Message(STATUS, (1, 3, 0, 1)), bone]), write_bundle([*values, Message(APPLY, ())])]


def _named(message: Message, count: int) -> tuple[str, list[float]]:
    """The name and the `count` numbers that follow it."""
    name, *rest = message.arguments or ("",)
    numbers = [float(value) for value in rest[:count] if isinstance(value, (int, float))]
    if not isinstance(name, str) or len(numbers) < count or not all(map(math.isfinite, numbers)):
        raise PacketError(f"{message.address}: wanted a name and {count} finite numbers, got "
                          f"{ascii(message.arguments)[:80]}")
    return name, numbers


def _turn(quat: Sequence[float]) -> Tensor:
    """The turn [3,3] in the head's axes of a bone's quaternion (x, y, z, w); zeros, as some apps send, are no turn."""
    x, y, z, w = quat
    if max(map(abs, quat)) < 1e-6:
        return torch.eye(3)
    return matrix_from_quat(torch.tensor([w, x, -y, -z]) / math.hypot(*quat))


def _unity(R: Tensor) -> tuple[float, float, float, float]:
    w, x, y, z = quat_from_matrix(R).tolist()
    return x, -y, -z, w


def _scores(values: dict[str, float], bones: dict[str, Tensor]) -> dict[str, float]:
    """By ARKit's names. VRM's expressions count where ARKit's are not sent, and eye bones where no eyeLook is."""
    scores = {ARKIT_KEYS[key]: value for key, value in values.items() if key in ARKIT_KEYS}
    made: dict[str, float] = {}
    for key, value in values.items():
        for name, share in VRM.get(key, {}).items():
            if name not in scores:
                made[name] = min(1.0, made.get(name, 0.0) + share * value)
    scores |= made
    if not any(name.startswith("eyeLook") for name in scores):
        for bone, side in EYES.items():
            if bone in bones:
                scores |= looks(bones[bone], side)
    return scores


def _angles(bones: dict[str, Tensor]) -> Angles | None:
    turns = [bones[name] for name in TURNING if name in bones]
    if not turns:
        return None
    return angles_of_turn(turns[0] @ turns[1] if len(turns) == 2 else turns[0])


def looks(R: Tensor, side: str) -> dict[str, float]:
    """The eyeLook scores of an eye's turn [3,3]; side: Left or Right."""
    yaw, pitch, _ = angles_of_turn(R)
    left, down = yaw / GAZE_SIDEWAYS, pitch / GAZE_UPRIGHT
    outwards = left if side == "Left" else -left
    return {f"eyeLook{way}{side}": min(max(value, 0.0), 1.0)
            for way, value in (("Down", down), ("Up", -down), ("Out", outwards), ("In", -outwards))}
