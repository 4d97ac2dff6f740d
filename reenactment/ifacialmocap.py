"""The text that iFacialMocap and Facemotion3d send over UDP: `jawOpen-12|...|=head#-21.4,-6.0,-6.6,x,y,z|...|`.

Scores in per cent, after a hyphen or an ampersand; angles in degrees about x (down), y (to the subject's left) and z.
"""

from __future__ import annotations

import math
import re

from reenactment.arkit import score_key
from reenactment.samples import (
    ARKIT_KEYS,
    NO_FACE,
    FaceSample,
    PacketError,
    checked_angle,
    checked_score,
)

GREETING = b"iFacialMocap_sahuasouryya9218sauhuiayeta91555dy3719"  # asks the app for its stream, as its maker documents
LONGEST = 8192  # bytes, as its maker's example receives
_SCORE = re.compile(r"([A-Za-z_]{1,40})[-&](-?\d{1,9}(?:\.\d{1,20})?)")


def decode(packet: bytes) -> FaceSample:
    """The sample of a packet. PacketError for anything else."""
    if len(packet) > LONGEST:
        raise PacketError(f"wanted at most {LONGEST} bytes, got {len(packet)}")
    try:
        text = packet.decode("ascii")
    except UnicodeDecodeError:
        raise PacketError("wanted a text like jawOpen-12|...|=head#..., got other bytes") from None
    scores: dict[str, float] = {}
    angles = None
    for part in text.strip().split("|"):
        if part.lstrip("=").startswith("head#"):
            pitch, yaw, roll = _numbers(part)
            angles = (yaw, pitch, roll)
        elif "#" in part or not part:
            continue  # the eyes' angles, which the eyeLook scores tell too
        elif (found := _SCORE.fullmatch(part)) is not None:
            if (name := ARKIT_KEYS.get(score_key(found[1]))) is not None:
                scores[name] = checked_score(name, float(found[2]) / 100)
        elif not re.fullmatch(r"[A-Za-z_]{1,40}", part):  # such a word is a mark or a state of the app
            raise PacketError(f"wanted a name and a number like jawOpen-12, got {part[:40]!a}")
    if not scores and angles is None:
        raise PacketError(f"wanted blendshapes and =head#, got {text[:40]!a}")
    return FaceSample(scores, angles) if scores else NO_FACE


def encode(sample: FaceSample) -> bytes:
    """The packet of a sample. What the app sends without a face is not documented: here, angles without scores."""
    yaw, pitch, roll = (math.degrees(angle) for angle in sample.angles or (0.0, 0.0, 0.0))
    names = [re.sub("Left$", "_L", re.sub("Right$", "_R", name)) if name not in _WHOLE else name
             for name in sample.scores]
    scores = "".join(f"{name}-{round(100 * value)}|" for name, value in zip(names, sample.scores.values(), strict=True))
    eyes = "".join(f"{side}Eye#0,0,0|" for side in ("right", "left"))
    return f"{scores if sample.face else ''}=head#{pitch:.6f},{yaw:.6f},{roll:.6f},0,0,0|{eyes}".encode()


_WHOLE = {"jawLeft", "jawRight", "mouthLeft", "mouthRight"}  # whose Left and Right are directions, not sides


def _numbers(part: str) -> list[float]:
    """The three angles of a part in radians."""
    try:
        values = [float(number) for number in part.split("#", 1)[1].split(",")]
    except ValueError:
        values = []
    if len(values) < 3:
        raise PacketError(f"wanted =head# and three angles, got {part[:40]!a}")
    return [checked_angle("head", math.radians(value)) for value in values[:3]]
