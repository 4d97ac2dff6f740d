"""What the subject does: speech, expressions, blinks, gaze and head turns, as codes and cameras for every frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from data.demo.atlas import Floats, smoothstep

PIVOT = np.array([0.0, -0.095, -0.055])  # metres: the head turns about the top of the neck
DISTANCE = 0.62                          # metres from the camera to the head's origin
CENTRE = 0.006                           # metres: height in head space that the image centre shows
FOCAL = 1.72                             # focal length in image widths
MAX_TURN = np.radians([10.0, 25.0, 8.0])  # pitch, yaw, roll of the head
GAZE_LIMIT = np.radians([22.0, 10.0])    # yaw, pitch of the eyes
RING_CENTRE = np.array([0.0, 0.0, -0.04])  # metres: several cameras stand around the vertical through it
CAMERA_AXES = np.diag([1.0, -1.0, -1.0])  # head space (y up, z to the viewer) to camera axes

VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.55, "mouthLowerDown": 0.25, "mouthUpperUp": 0.15},                     # a
    {"jawOpen": 0.28, "mouthStretch": 0.35, "mouthSmile": 0.25, "mouthLowerDown": 0.3},  # e
    {"jawOpen": 0.14, "mouthSmile": 0.35, "mouthUpperUp": 0.25, "mouthLowerDown": 0.35},  # i, s
    {"jawOpen": 0.32, "mouthFunnel": 0.55},                                              # o
    {"jawOpen": 0.12, "mouthPucker": 0.60, "mouthFunnel": 0.25},                         # u, w
    {"jawOpen": 0.00, "mouthPress": 0.45, "mouthRollLower": 0.15, "mouthRollUpper": 0.15},  # m, b, p
    {"jawOpen": 0.10, "mouthRollLower": 0.50, "mouthUpperUp": 0.35},                     # f, v
    {"jawOpen": 0.22, "mouthUpperUp": 0.15, "mouthLowerDown": 0.20},                     # t, l, n
)
EVENTS: tuple[dict[str, float], ...] = (
    {"mouthSmile": 0.85, "cheekSquint": 0.55, "eyeSquint": 0.35, "mouthUpperUp": 0.45,
     "mouthLowerDown": 0.35, "jawOpen": 0.08},                                          # smile, teeth shown
    {"browInnerUp": 0.95, "browOuterUp": 0.80, "eyeWide": 0.45},                         # raised brows
    {"browDown": 0.90, "eyeSquint": 0.50, "mouthPress": 0.25},                           # frown
    {"noseSneer": 0.85, "mouthUpperUp": 0.45, "browDown": 0.40},                         # disgust
    {"mouthPucker": 0.80, "mouthFunnel": 0.15},                                          # kiss
    {"jawOpen": 0.95, "browInnerUp": 0.60, "eyeWide": 0.70, "mouthStretch": 0.2},        # surprise, mouth wide open
    {"mouthFrown": 0.80, "mouthShrugLower": 0.65, "browInnerUp": 0.45},                  # sad
    {"cheekPuff": 0.75, "mouthPress": 0.35},
    {"mouthLeft": 0.70, "jawLeft": 0.45, "mouthSmileLeft": 0.35},
    {"mouthRight": 0.70, "jawRight": 0.45, "mouthSmileRight": 0.35},
    {"mouthSmile": 0.70, "jawOpen": 0.40, "mouthUpperUp": 0.6, "cheekSquint": 0.6, "eyeSquint": 0.6},  # laugh
)
# A friendly face between the events: the head's own rest has heavy lids and a straight mouth.
REST = {"mouthSmile": 0.38, "eyeWide": 0.42, "browOuterUp": 0.15}
REST_VARIES = (0.35, 1.0)  # share of REST, so that training also sees the face without it
OPENING = 10               # frames until speech, gaze and head turns have their full size: the clip begins frontal


@dataclass(frozen=True, eq=False)
class Motion:
    """T frames. expression [T,E] in 0 .. 1 (blinks complete in it); gaze [T,2] yaw, pitch in radians (both eyes);
    R [T,3,3], t [T,3]: world (head) to camera; turn [T,3,3]: the head's rotation in the room.
    """

    expression: Floats
    gaze: Floats
    R: Floats
    t: Floats
    turn: Floats


def make_motion(frames: int, names: tuple[str, ...], rng: np.random.Generator) -> Motion:
    """Random but natural motion of `frames` frames (about 25 a second), codes named as the head's expressions."""
    signals: dict[str, Floats] = {name: np.zeros(frames) for name in names}
    _speak(signals, frames, rng)
    _act(signals, frames, rng)
    opening = smoothstep(-1, OPENING, np.arange(frames, dtype=float))
    for values in signals.values():
        values *= opening
    gaze = _look(frames, rng) * opening[:, None]
    _rest(signals, opening, rng)
    _follow_gaze(signals, gaze)
    _blink(signals, frames, rng)
    turn, shift = _move_head(opening, rng)
    R = CAMERA_AXES @ turn
    t = (PIVOT + shift - turn @ PIVOT) @ CAMERA_AXES + np.array([0, CENTRE, DISTANCE])
    expression = np.clip(np.stack([signals[name] for name in names], axis=1), 0, 1)
    return Motion(expression, gaze, R, t, turn)


def seen_from(motion: Motion, azimuth: float) -> Motion:
    """The same motion seen by a camera that is turned about the head, `azimuth` radians to the subject's left.

    R' = C R_y(-azimuth) C R with the camera axes C, and the ring's centre keeps its place in the picture.
    """
    swing = CAMERA_AXES @ Rotation.from_euler("y", -azimuth).as_matrix() @ CAMERA_AXES
    pivot = RING_CENTRE @ CAMERA_AXES + np.array([0, CENTRE, DISTANCE])
    return replace(motion, R=swing @ motion.R, t=(motion.t - pivot) @ swing.T + pivot)


def _add(signals: dict[str, Floats], shape: str, values: Floats) -> None:
    """Add to one code, or to the left and right one of a pair."""
    for name in (shape,) if shape in signals else (shape + "Left", shape + "Right"):
        signals[name] += values


def _speak(signals: dict[str, Floats], frames: int, rng: np.random.Generator) -> None:
    targets = {shape: np.zeros(frames) for viseme in VISEMES for shape in viseme}
    now = int(rng.integers(0, 4))
    while now < frames:
        phrase_end = now + int(rng.integers(25, 60))
        loudness = rng.uniform(0.65, 1.15)
        while now < min(phrase_end, frames):
            length = int(rng.integers(2, 6))
            stress = loudness * rng.uniform(0.7, 1.1)
            for shape, weight in VISEMES[rng.integers(len(VISEMES))].items():
                targets[shape][now:now + length] += stress * weight
            now += length
        now += int(rng.integers(10, 26))
    for shape, target in targets.items():
        _add(signals, shape, gaussian_filter1d(target, 1.1, mode="nearest"))


def _act(signals: dict[str, Floats], frames: int, rng: np.random.Generator) -> None:
    """Expressions, each as often as the others: drawn from a bag that is refilled when empty."""
    now, bag = int(rng.integers(0, 10)), list[int]()
    while now < frames:
        bag = bag or list(rng.permutation(len(EVENTS)))
        length, amount = int(rng.integers(14, 32)), rng.uniform(0.55, 1.05)
        # Up in a third, held, down in a third.
        phase = np.linspace(0, 3, length)
        envelope = np.sin(np.pi / 2 * np.clip(np.minimum(phase, 3 - phase), 0, 1)) ** 2 * amount
        stop = min(now + length, frames)
        for shape, weight in EVENTS[bag.pop()].items():
            values = np.zeros(frames)
            values[now:stop] = weight * envelope[:stop - now]
            _add(signals, shape, values)
        now += int(rng.integers(9, 24))


def _rest(signals: dict[str, Floats], opening: Floats, rng: np.random.Generator) -> None:
    """The friendly face under everything else: whole at first, then more and less of it."""
    low, high = REST_VARIES
    mood = np.clip((low + high) / 2 + (high - low) / 2 * _wander(len(opening), 14, rng)[:, 0], low, high)
    for shape, weight in REST.items():
        _add(signals, shape, weight * (1 + (mood - 1) * opening))


def _look(frames: int, rng: np.random.Generator) -> Floats:
    gaze = np.zeros((frames, 2))
    now = 0
    while now < frames:
        length = int(rng.integers(7, 28))
        gaze[now:now + length] = rng.uniform(-1, 1, 2) * GAZE_LIMIT * rng.choice([0.25, 1.0])
        now += length
    return gaussian_filter1d(gaze, 0.8, axis=0, mode="nearest")


def _follow_gaze(signals: dict[str, Floats], gaze: Floats) -> None:
    """Lids move with the eyes: the look codes, 1 at 35 degrees."""
    yaw, pitch = gaze.T / np.radians(35)
    for code, value in (("LookUp", pitch), ("LookDown", -pitch)):
        _add(signals, "eye" + code, np.maximum(value, 0))
    for side, sign in (("Left", 1), ("Right", -1)):  # the left eye looks out when both look to the subject's left
        signals[f"eyeLookOut{side}"] += np.maximum(sign * yaw, 0)
        signals[f"eyeLookIn{side}"] += np.maximum(-sign * yaw, 0)


def _blink(signals: dict[str, Floats], frames: int, rng: np.random.Generator) -> None:
    closing = np.zeros(frames)
    now = int(rng.integers(4, 20))
    while now < frames:
        hold = int(rng.choice([1, 1, 1, 2, 8]))
        profile = np.concatenate([[0.35, 0.85], np.ones(hold), [0.8, 0.45, 0.15]])
        stop = min(now + len(profile), frames)
        closing[now:stop] = np.maximum(closing[now:stop], profile[:stop - now])
        now += int(rng.integers(16, 50))
    for side in ("Left", "Right"):
        signals[f"eyeWide{side}"] *= 1 - closing
        signals[f"eyeSquint{side}"] *= 1 - 0.7 * closing
        signals[f"eyeBlink{side}"] = np.maximum(signals[f"eyeBlink{side}"], closing)


def _move_head(opening: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Rotation [T,3,3] of the head in the room and shift [T,3] in metres, in the size that `opening` [T] gives."""
    frames = len(opening)
    slow, quick = (_wander(frames, sigma, rng) for sigma in (16, 5))
    angles = np.clip(0.85 * slow + 0.2 * quick, -1, 1) * opening[:, None]
    turn = Rotation.from_euler("yxz", angles[:, [1, 0, 2]] * MAX_TURN[[1, 0, 2]]).as_matrix()
    shift = 0.010 * np.clip(_wander(frames, 20, rng), -1.5, 1.5) * opening[:, None]
    return turn, shift


def _wander(frames: int, sigma: float, rng: np.random.Generator) -> Floats:
    """Smooth random curves [frames,3] that stay mostly within -1 .. 1."""
    margin = int(4 * sigma)
    noise = gaussian_filter1d(rng.standard_normal((frames + 2 * margin, 3)), sigma, axis=0)
    # The smoothed noise has this standard deviation; 0.6 of the range then holds 90 % of the time.
    return noise[margin:margin + frames] * (0.6 * np.sqrt(2 * sigma * np.sqrt(np.pi)))
