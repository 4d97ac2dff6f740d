"""Where the fit of a clip starts: the detector's expressions, scaled orthography, and the cameras from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flame import Head
from tracking.bundle import State
from tracking.landmark_term import MIN_LANDMARKS, LandmarkTerm
from tracking.records import BLENDSHAPE_NAMES, Observations, Rig
from tracking.surface import EYE_ANGLES, LIDS, turns_of

BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")


def start_of(
    head: Head, views: Sequence[Observations], terms: Sequence[LandmarkTerm], firm: Tensor, log_focal: Tensor,
    known: Rig | None,
) -> State:
    """The mean head with the detector's expression, placed by scaled orthography picture by picture.

    firm bool [L]: landmarks that lie firmly on the skin. log_focal [C]. known: where the cameras stand; None: as the
    heads before them say on average.

    Raises ValueError where two cameras never see the face at one moment, or a moment is seen by none.
    """
    points = terms[0].points
    scores, blinks = scores_of(head, best_scores(views))
    codes = torch.cat([scores, scores @ head.expression_jaw, torch.zeros(len(scores), EYE_ANGLES), blinks], 1)
    shape, frames, cameras = points.rest.new_zeros(points.shape.shape[2]), len(codes), len(views)
    eye = torch.eye(3).to(points.rest)
    blank = State(shape, log_focal, codes.to(points.rest), eye.expand(frames, 3, 3), points.rest.new_zeros(frames, 3),
                  eye.expand(cameras, 3, 3), points.rest.new_zeros(cameras, 3))
    split = blank.split()
    placed = points.place(shape, split, turns_of(split))
    poses = [_orthographic(placed, term.observed - term.center, (term.weight > 0) & firm, float(focal.exp()))
             for term, focal in zip(terms, log_focal, strict=True)]
    seen = torch.stack([((term.weight > 0) & firm).sum(1) >= min(MIN_LANDMARKS, int(firm.sum())) // 2
                        for term in terms])
    if cameras == 1:
        return replace(blank, R=poses[0][0], t=poses[0][1])
    if known is None:
        rig_R, rig_t = _rig(poses, seen)
    else:
        rig_R, rig_t = (torch.from_numpy(values).to(points.rest) for values in (known.R, known.t))
    R, t = _first_camera(poses, seen, rig_R, rig_t)
    return replace(blank, R=R, t=t, rig_R=rig_R, rig_t=rig_t)


def best_scores(views: Sequence[Observations]) -> Observations:
    """The first camera's record with, of each moment, the scores of the camera that the face looks at most."""
    if len(views) == 1:
        return views[0]
    facing = np.stack([np.where(view.seen, view.pose[:, 2, 2], -np.inf) for view in views])
    best = facing.argmax(axis=0)
    scores = np.stack([view.blendshapes for view in views])[best, np.arange(len(best))]
    return replace(views[0], blendshapes=scores)


def scores_of(head: Head, observations: Observations) -> tuple[Tensor, Tensor]:
    """What the detector says of the codes: expression [T,E] (zero where it has no such name) and lids [T,2]."""
    found = np.clip(np.nan_to_num(observations.blendshapes), 0, 1)
    columns = {name: torch.from_numpy(found[:, k]).float() for k, name in enumerate(BLENDSHAPE_NAMES)}
    none = torch.zeros(len(found))
    expression = torch.stack([columns.get(name, none) for name in head.expression_names], 1)
    lids = torch.zeros(len(found), LIDS)
    if blink_columns(head) is None and bool(head.eyelids.any()):
        lids = torch.stack([columns[name] for name in BLINKS], 1)
    return expression, lids


def blink_columns(head: Head) -> list[int] | None:
    """Columns of the expressions that equal the eyelid offsets, left and right; None for heads without such."""
    if not all(name in head.expression_names for name in BLINKS):
        return None
    columns = [head.expression_names.index(name) for name in BLINKS]
    same = torch.allclose(head.expression_dirs[:, :, columns].permute(2, 0, 1), head.eyelids, atol=1e-6)
    return columns if same else None


def _rig(poses: Sequence[tuple[Tensor, Tensor]], seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cameras [C,3,3], [C,3] from the head's poses before each of them; seen bool [C,T]."""
    R, t = [torch.eye(3).to(poses[0][0])], [torch.zeros(3).to(poses[0][0])]
    for camera in range(1, len(poses)):
        both = seen[0] & seen[camera]
        if not bool(both.any()):
            raise ValueError(f"camera {camera + 1} and camera 1 never see the face at one moment, so where they stand "
                             "to one another cannot be found; give their --calibration")
        turn = poses[camera][0][both] @ poses[0][0][both].mT
        u, _, vh = torch.linalg.svd(turn.mean(0))
        # of the two nearest orthogonal matrices the one that does not mirror
        flip = torch.diag(torch.stack([u.new_ones(()), u.new_ones(()), torch.linalg.det(u @ vh)]))
        R.append(u @ flip @ vh)
        t.append((poses[camera][1][both] - poses[0][1][both] @ R[-1].T).median(0).values)
    return torch.stack(R), torch.stack(t)


def _first_camera(
    poses: Sequence[tuple[Tensor, Tensor]], seen: Tensor, rig_R: Tensor, rig_t: Tensor
) -> tuple[Tensor, Tensor]:
    """The head before the first camera in every moment, from the first camera that sees it then."""
    if not bool(seen.any(0).all()):
        raise ValueError(f"moment {int(torch.nonzero(~seen.any(0))[0])}: no camera sees the face")
    by = seen.int().argmax(0)
    R = torch.stack([rig_R[int(c)].T @ poses[int(c)][0][i] for i, c in enumerate(by)])
    t = torch.stack([rig_R[int(c)].T @ (poses[int(c)][1][i] - rig_t[int(c)]) for i, c in enumerate(by)])
    return R, t


def _orthographic(points: Tensor, pixels: Tensor, seen: Tensor, focal: float) -> tuple[Tensor, Tensor]:
    """R [T,3,3], t [T,3] from points [T,L,3] and pixels [T,L,2] about the principal point, by the affine camera that
    fits best; its rows give scale and rotation.
    """
    share = (seen / seen.sum(1, keepdim=True).clamp_min(1))[..., None]
    middle, image = (share * points).sum(1, keepdim=True), (share * pixels).sum(1, keepdim=True)
    spread, target = points - middle, pixels - image
    moment = (share * spread).mT @ spread + 1e-9 * torch.eye(3, device=points.device)
    affine = torch.linalg.solve(moment, (share * spread).mT @ target).mT
    u, size, vh = torch.linalg.svd(affine, full_matrices=False)
    rows = u @ vh
    R = torch.stack([rows[:, 0], rows[:, 1], torch.linalg.cross(rows[:, 0], rows[:, 1])], 1)
    depth = focal / size.mean(1).clamp_min(1e-6)
    place = torch.cat([image[:, 0] * (depth / focal)[:, None], depth[:, None]], 1)
    return R, place - (R @ middle.mT).squeeze(-1)
