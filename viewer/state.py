"""What the page shows, as a value: which codes, which camera, which picture. Knows no browser and draws nothing.

The codes are those of a frame of the clip, of the head at rest, or of a live driver, with overrides on top: one number
per slider that was moved. Overrides stay while the clip plays, so that a smile can be laid over it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from flame import Head
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle
from scene.rig import Codes

Base = Literal["clip", "neutral", "driver"]
View = Literal["orbit", "clip"]
Layer = Literal["colour", "opacity", "depth", "mask"]
Parts = Literal["everything", "without teeth", "teeth only"]

EXPRESSION = "expression:"  # slider names of expressions: this and the expression's own
IDENTITY_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Slider:
    """One slider: its unique name, what the page writes beside it, the folder it lies in, and its range."""

    name: str
    label: str
    group: str
    low: float
    high: float
    step: float


@dataclass(frozen=True)
class _Turn:
    """A slider that turns a joint: component `axis` of the rotation vectors of `joints` (6D columns) of a code."""

    code: str
    joints: tuple[slice, ...]
    axis: int
    sign: float
    low: float  # degrees
    high: float


_ONE, _BOTH = (slice(0, 6),), (slice(0, 6), slice(6, 12))
# Head space: x to the subject's left, y up, z forward; turning about +x lowers the gaze and the chin.
TURNS = {
    "jaw open": _Turn("jaw", _ONE, 0, 1.0, -5.0, 40.0),
    "jaw left": _Turn("jaw", _ONE, 1, 1.0, -15.0, 15.0),
    "look up": _Turn("eyes", _BOTH, 0, -1.0, -30.0, 30.0),
    "look left": _Turn("eyes", _BOTH, 1, 1.0, -40.0, 40.0),
    "neck down": _Turn("neck", _ONE, 0, 1.0, -40.0, 40.0),
    "neck left": _Turn("neck", _ONE, 1, 1.0, -60.0, 60.0),
    "neck tilt": _Turn("neck", _ONE, 2, 1.0, -30.0, 30.0),
}
_GROUPS = {"jaw": "Jaw", "look": "Gaze", "neck": "Neck"}
LIDS = ("left eyelid", "right eyelid")


@dataclass(frozen=True, eq=False)
class Driven:
    """What a live driver does: codes [1,...] of the avatar, and how its head is turned against rest, R [3,3] (CPU)."""

    codes: Codes
    turn: Tensor


@dataclass(frozen=True)
class ViewState:
    """Everything the page can be set to. Change it with `dataclasses.replace` and the functions below.

    base, frame: whose codes; driven: those of the base "driver", which rests until they come. overrides: slider name ->
    value. view: the page's own camera, or that of the clip's frame. layer: what is drawn; mask_expression: whose
    consistency mask the layer "mask" shows. background: RGB in [0,1].
    compare: ground truth, avatar and error side by side.

    Raises ValueError for a value outside its options or range.
    """

    base: Base = "clip"
    frame: int = 0
    driven: Driven | None = None
    overrides: Mapping[str, float] = field(default_factory=dict)
    view: View = "orbit"
    layer: Layer = "colour"
    parts: Parts = "everything"
    mesh: bool = False
    centres: bool = False
    mask_expression: int = 0
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    compare: bool = False

    def __post_init__(self) -> None:
        for name, options in (("base", Base), ("view", View), ("layer", Layer), ("parts", Parts)):
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"{name}: wanted one of {', '.join(get_args(options))}, got {getattr(self, name)!r}")
        if self.frame < 0 or self.mask_expression < 0:
            raise ValueError(f"frame and mask_expression: wanted 0 or more, "
                             f"got {self.frame} and {self.mask_expression}")
        if len(self.background) != 3 or not all(0 <= value <= 1 for value in self.background):
            raise ValueError(f"background: wanted three numbers in [0,1], got {self.background}")


def sliders_of(head: Head, count: int, clip: Codes) -> dict[str, Slider]:
    """Every slider of an avatar whose first `count` expressions move it, by name, in the order of the page.

    An expression reaches from 0 (where the clip has no negative code: ARKit-like heads) or its mirror image up to the
    largest code of the clip, and at least to 1 (3 where codes are signed, as FLAME's standard deviations are).
    """
    codes = clip.expression[:, :count]
    signed = bool(codes.numel()) and float(codes.min()) < 0
    limit = max(3.0 if signed else 1.0, math.ceil(10 * float(codes.abs().max())) / 10 if codes.numel() else 0.0)
    found = [Slider(name, f"{name.split()[1]} (°)", _GROUPS[name.split()[0]], turn.low, turn.high, 0.5)
             for name, turn in TURNS.items()]
    found += [Slider(name, name, "Eyelids", -0.5, 1.0, 0.01) for name in LIDS]
    names = head.expression_names[:count]
    found += [Slider(EXPRESSION + name, name, group, -limit if signed else 0.0, limit, 0.01)
              for name, group in zip(names, expression_groups(names), strict=True)]
    return {slider.name: slider for slider in found}


def expression_groups(names: tuple[str, ...]) -> list[str]:
    """The folder of each expression: the first word of names like mouthSmileLeft, tens where names are numbered."""
    words = [re.match(r"[a-z]+(?![a-z0-9])", name) for name in names]
    if all(words):
        return [word.group().capitalize() for word in words if word is not None]
    last = len(names) - 1
    return [f"Expressions {k // 10 * 10} to {min(k // 10 * 10 + 9, last)}" for k in range(len(names))]


def with_override(state: ViewState, slider: Slider, value: float) -> ViewState:
    """`state` with one slider moved; the value is cut to the slider's range. ValueError when it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{slider.name}: wanted a finite number, got {value}")
    return replace(state, overrides={**state.overrides, slider.name: min(max(value, slider.low), slider.high)})


def single_expression(state: ViewState, slider: Slider, amplitude: float) -> ViewState:
    """The head at rest but for one expression."""
    return with_override(replace(state, base="neutral", overrides={}), slider, amplitude)


def codes_of(state: ViewState, head: Head, clip: Codes) -> Codes:
    """The codes [1,...] that `state` asks for (CPU): base and overrides.

    On heads whose jaw belongs to an expression (`head.expression_jaw`: jawOpen) an overridden expression takes the jaw
    along, unless a jaw slider says otherwise. ValueError for a frame or slider that there is not.
    """
    if not state.frame < len(clip):
        raise ValueError(f"frame: wanted 0 to {len(clip) - 1}, got {state.frame}")
    if state.base == "clip":
        codes = clip.at(slice(state.frame, state.frame + 1))
    else:
        codes = state.driven.codes if state.base == "driver" and state.driven is not None else neutral_of(clip)
    values = {name: getattr(codes, name).clone() for name in ("expression", "jaw", "eyes", "eyelids")}
    values["neck"] = codes.jaw.new_tensor([IDENTITY_6D]) if codes.neck is None else codes.neck.clone()
    for name, value in state.overrides.items():
        if name.startswith(EXPRESSION):
            _override_expression(values, head, name.removeprefix(EXPRESSION), value)
    for name, value in state.overrides.items():
        if name in LIDS:
            values["eyelids"][:, LIDS.index(name)] = value
        elif not name.startswith(EXPRESSION):
            _override_turn(values, name, value)
    return Codes(shape=clip.shape, sway=codes.sway, **values)


def neutral_of(clip: Codes) -> Codes:
    """One frame of the clip's subject at rest."""
    rest = clip.jaw.new_tensor([IDENTITY_6D])
    return Codes(clip.shape, torch.zeros_like(clip.expression[:1]), rest, rest.repeat(1, 2),
                 torch.zeros_like(clip.eyelids[:1]), rest)


def _override_expression(values: dict[str, Tensor], head: Head, name: str, value: float) -> None:
    if name not in head.expression_names:
        raise ValueError(f"expression: {name!r} is none of the head's {len(head.expression_names)}")
    index = head.expression_names.index(name)
    change = value - values["expression"][0, index]
    values["expression"][0, index] = value
    if bool(head.expression_jaw[index].any()):
        turned = matrix_to_axis_angle(matrix_from_6d(values["jaw"])) + change * head.expression_jaw[index]
        values["jaw"] = matrix_to_6d(matrix_from_axis_angle(turned))


def _override_turn(values: dict[str, Tensor], name: str, degrees: float) -> None:
    if name not in TURNS:
        raise ValueError(f"slider: {name!r} is not known; known are {', '.join((*TURNS, *LIDS))} and expressions")
    turn = TURNS[name]
    for joint in turn.joints:
        vector = matrix_to_axis_angle(matrix_from_6d(values[turn.code][:, joint]))
        vector[:, turn.axis] = turn.sign * math.radians(degrees)
        values[turn.code][:, joint] = matrix_to_6d(matrix_from_axis_angle(vector))


def slider_values(codes: Codes, sliders: Mapping[str, Slider], head: Head) -> dict[str, float]:
    """Where the sliders stand for codes [1,...]; both eyes' mean where a slider turns both. Cut to the ranges."""
    values = {}
    for slider in sliders.values():
        if slider.name in LIDS:
            value = float(codes.eyelids[0, LIDS.index(slider.name)])
        elif slider.name in TURNS:
            value = _turn_of(codes, TURNS[slider.name])
        else:
            value = float(codes.expression[0, head.expression_names.index(slider.name.removeprefix(EXPRESSION))])
        values[slider.name] = min(max(value, slider.low), slider.high)
    return values


def _turn_of(codes: Codes, turn: _Turn) -> float:
    code = getattr(codes, turn.code)
    if code is None:
        return 0.0
    vectors = [matrix_to_axis_angle(matrix_from_6d(code[0, joint])) for joint in turn.joints]
    return math.degrees(turn.sign * float(torch.stack(vectors).mean(0)[turn.axis]))
