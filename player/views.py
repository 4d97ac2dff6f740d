"""From where training saw the head: the frame that shows it best, and how far a view lies from all of training's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from player.player import Player
from scene.clip import Clip

UNSEEN_BEYOND = 20.0  # degrees from the nearest view of training; half a head turn, and surfaces come into sight
APART = 3.0           # degrees; views that are closer together count as one
_CHUNK = 256          # frames posed at once

# [D,3]: unit vectors from the head's middle to cameras, in the space of the head at rest
Directions = NDArray[np.float64]


def front_frame(clip: Clip) -> int:
    """The frame to show first: seen from the front, with the face that the clip mostly makes.

    Ten degrees off the head's z axis weigh as much as a face that differs from the usual one as the median frame does.
    """
    codes = clip.codes
    face = torch.cat([codes.expression, codes.jaw, codes.eyelids], dim=1)
    unusual = (face - face.median(dim=0).values).norm(dim=1)
    angle = torch.rad2deg(torch.arccos((-clip.R[:, 2, 2]).clamp(-1, 1)))
    return int((angle / 10 + unusual / unusual.median().clamp_min(1e-6)).argmin())


def front_clip(clip: Clip) -> Clip:
    """The frames of the camera that sees the face best, of several; the clip itself where there is but one.

    For what plays a clip in time: moment after moment, each once.
    """
    recording = clip.recording
    return clip.of_camera(int(recording.view[front_frame(clip)])) if recording.several else clip


def seen_directions(player: Player, target: NDArray[np.floating]) -> Directions:
    """Views of all training frames, thinned to `APART` degrees. target [3]: the head's middle, metres, at rest."""
    clip, found = player.clip, list[Directions]()
    frames = clip.train if len(clip.train) else torch.arange(len(clip))
    for chunk in frames.split(_CHUNK):
        R, t = clip.R[chunk].double(), clip.t[chunk].double()
        found.append(directions(_skull(player, chunk), -torch.einsum("tji,tj->ti", R, t), target))
    kept = np.zeros((0, 3))
    for direction in np.concatenate(found):
        if not len(kept) or off_seen(direction, kept) > APART:
            kept = np.concatenate([kept, direction[None]])
    return kept


def directions(skull: Tensor, cameras: Tensor, target: NDArray[np.floating]) -> Directions:
    """Unit vectors [B,3] to cameras [B,3], undoing the rigid motions of the skull [B,3,4] (rest to posed)."""
    R, t = skull[..., :3].double().cpu(), skull[..., 3].double().cpu()
    at_rest = torch.einsum("bji,bj->bi", R, cameras.double().cpu() - t).numpy() - np.asarray(target, np.float64)
    return at_rest / np.maximum(np.linalg.norm(at_rest, axis=1, keepdims=True), 1e-12)


def off_seen(direction: Directions, seen: Directions) -> float:
    """Degrees between a unit vector [3] and the nearest of `seen` [D,3]."""
    return float(np.degrees(np.arccos(np.clip(float((seen @ direction).max()), -1, 1))))


def words_for(degrees: float) -> str:
    """What to say of a view so far from training's; nothing where it is near."""
    if degrees <= UNSEEN_BEYOND:
        return ""
    return f"{degrees:.0f}° from the nearest view of training: what is seen here is a guess"


def _skull(player: Player, frames: Tensor) -> Tensor:
    """Rigid motions [T,3,4] of the skull; only the neck moves it."""
    if player.clip.codes.neck is None:
        return torch.eye(3, 4).expand(len(frames), 3, 4)
    return player.rig.with_codes(player.clip.codes.at(frames)).posed.head_rigid
