"""ARKit's blendshape scores as codes of the open head, whose expressions bear the same names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from flame import Head, load_head
from reenactment.curves import Curves, is_unsigned
from scene.rig import Codes

# ARKit's scores in the order of Unreal's documentation (enum EARFaceBlendShape): left eye, right eye, and so on.
_EYE = ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")
ARKIT_NAMES = (
    *(f"eye{what}{side}" for side in ("Left", "Right") for what in _EYE),
    "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft",
    "mouthRight",
    *(f"mouth{what}{side}" for what in ("Smile", "Frown", "Dimple", "Stretch") for side in ("Left", "Right")),
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    *(f"mouth{what}{side}" for what in ("Press", "LowerDown", "UpperUp") for side in ("Left", "Right")),
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)

# Radians that an eye turns at score 1. Measured: MediaPipe's scores against the gaze that track.py fits to the irises,
# two clips, four eyes: 0.38 to 0.46 sideways, 0.26 to 0.32 up and down (least squares, correlation 0.92 to 0.98).
GAZE_SIDEWAYS, GAZE_UPRIGHT = 0.42, 0.28


def score_key(name: str) -> str:
    """What the spellings of one blendshape have in common: eyeBlinkLeft, EyeBlinkLeft, eyeBlink_L, eye_blink_left."""
    key = re.sub(r"([a-z])_?L$", r"\1left", re.sub(r"([a-z])_?R$", r"\1right", name.strip()))
    return re.sub(r"[^a-z]", "", key.lower())


def codes_of_scores(head: Head, scores: Mapping[str, Tensor]) -> Codes:
    """Codes of an ARKit-like head from scores [T] by their ARKit names; what is missing is 0.

    The jaw turns as `Head.expression_jaw` says, the eyes by the eyeLook scores; the eyelid codes stay 0, since the
    blink expressions close the lids. ValueError for a head without ARKit's names.
    """
    if not is_unsigned(head):
        raise ValueError(f"head '{head.name}': wanted one with ARKit's expressions, such as the open head")
    some = next(iter(scores.values()))
    none = torch.zeros_like(some)
    expression = torch.stack([scores.get(name, none) for name in head.expression_names], dim=1)
    gaze = torch.stack([turn for side in ("Left", "Right") for turn in _turn(scores, side, none)], dim=1)
    curves = Curves(expression, expression @ head.expression_jaw, gaze, torch.zeros(len(some), 2))
    return curves.codes(torch.zeros(head.n_shape))


def arkit_head() -> Head:
    """The head whose expressions are ARKit's."""
    return load_head("open")


def _turn(scores: Mapping[str, Tensor], side: str, none: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation vector of one eye: +x lowers the gaze, +y turns it to the subject's left."""
    down, up, inwards, outwards = (scores.get(f"eyeLook{way}{side}", none) for way in ("Down", "Up", "In", "Out"))
    left = outwards - inwards if side == "Left" else inwards - outwards
    return GAZE_UPRIGHT * (down - up), GAZE_SIDEWAYS * left, none
