"""The numerical steps of building the open head: components, regressors, joint rotations, the neck's rim. No anny."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.optimize import least_squares

from data.open_head.label import PART_NAMES, Floats, Indices
from flame.rotations import matrix_from_axis_angle

TEETH_FRONT = np.array([0.0, -0.0445, 0.0516])  # the place of FLAME's upper teeth, metres
JAW_EXPRESSIONS = {"jawOpen": (0, 0.1), "jawLeft": (1, 0.1), "jawRight": (1, -0.1)}  # axis, first guess in radians

_log = logging.getLogger("open_head")


def principal_components(deviations: Floats, count: int) -> Floats:
    """First modes [count,N,3] of deviations [T,N,3], scaled so that coefficients are N(0,1)."""
    samples = deviations.reshape(len(deviations), -1)
    _, singular, modes = np.linalg.svd(samples, full_matrices=False)
    explained = (singular[:count] ** 2).sum() / (singular**2).sum()
    _log.info("%d modes explain %.2f %% of the variance", count, 100 * explained)
    scale = singular[:count] / np.sqrt(len(samples) - 1)
    return (modes[:count] * scale[:, None]).reshape(count, -1, 3)


def teeth_to_origin(upper_teeth: Floats) -> Floats:
    """Translation [3] that puts the front of the upper teeth where FLAME has it."""
    low, high = upper_teeth.min(0), upper_teeth.max(0)
    return TEETH_FRONT - [0, 0.5 * (low[1] + high[1]), high[2]]


def joint_regressor(
    samples: Floats, joints: Floats, vertices: Floats, still: Indices, mirror: Indices, part: Indices, ring: Indices
) -> Floats:
    """Joints from vertices [5,N]: root the mean of the neck's rim; neck and jaw from 160 or more vertices nearby that
    no expression moves; each eye from its eyeball. Fitted to anny's bone heads over the sampled identities."""
    regressor = np.zeros((5, len(vertices)))
    regressor[0, ring] = 1 / len(ring)
    for row, bone in ((1, 0), (2, 1)):
        distance = np.linalg.norm(vertices[still] - joints[:, bone].mean(0), axis=1)
        near = still[np.argsort(distance)[:160]]
        near = np.unique(np.concatenate([near, mirror[near]]))
        weights = fit_weights(samples[:, near], joints[:, bone], 1e-6)
        regressor[row, near] = 0.5 * (weights + weights[np.searchsorted(near, mirror[near])])
    for row, name in ((3, "left_eyeball"), (4, "right_eyeball")):
        ball = np.flatnonzero(part == PART_NAMES.index(name))
        regressor[row, ball] = fit_weights(samples[:, ball], joints[:, row - 1], 1e-4)
    return regressor


def fit_weights(points: Floats, target: Floats, ridge: float) -> Floats:
    """Weights [n], summing to one and close to equal, with sum_i w_i points[:, i] = target in the least-squares sense.

    points [T,n,3], target [T,3]. Solves the ridge problem's normal equations with one Lagrange multiplier.
    """
    count = points.shape[1]
    design = points.transpose(0, 2, 1).reshape(-1, count)
    matrix = np.ones((count + 1, count + 1))
    matrix[:count, :count] = design.T @ design / len(design) + ridge * np.eye(count)
    matrix[count, count] = 0
    right = design.T @ target.reshape(-1) / len(design) + ridge / count
    return np.linalg.solve(matrix, np.append(right, 1))[:count]


def separate_joints(
    motion: Floats, names: list[str], vertices: Floats, joints: Floats, weights: Floats, part: Indices
) -> dict[str, Floats]:
    """Take joint rotations out of the expressions, in place; returns the jaw rotation vectors taken out.

    Gaze: eyeLook* keep the lids and lose the eyeballs. Jaw: the rotation about one axis that best explains the lower
    teeth is removed from every vertex by its jaw weight, so that jaw joint plus expression give the sculpted shape;
    teeth and tongue then belong to the joint alone.
    """
    for index, name in enumerate(names):
        if name.startswith("eyeLook"):
            motion[index, np.isin(part, (1, 2))] = 0
    jaw = joints[2]
    teeth = np.flatnonzero(part == PART_NAMES.index("lower_teeth"))
    turns = {}
    for name, (axis, guess) in JAW_EXPRESSIONS.items():
        shape = motion[names.index(name)]
        direction = np.eye(3)[axis]

        def carried(angle: float, ids: Indices, direction: Floats = direction) -> Floats:
            return (vertices[ids] - jaw) @ turn(direction * angle).T + jaw - vertices[ids]

        def error(angle: Floats, shape: Floats = shape) -> Floats:
            return (carried(float(angle[0]), teeth) - shape[teeth]).ravel()

        angle = float(least_squares(error, [guess]).x[0])
        shape -= weights[:, 2:3] * carried(angle, np.arange(len(vertices)))
        shape[np.isin(part, (3, 4, 5))] = 0
        turns[name] = direction * angle
        _log.info("%s: jaw rotation %.1f degrees", name, np.degrees(angle))
    return turns


def turn(vector: Floats) -> Floats:
    """Rotation matrix [3,3] of a rotation vector [3] in radians."""
    return matrix_from_axis_angle(torch.from_numpy(vector)).numpy()


def boundary(quads: Indices) -> Indices:
    """The open boundary of a quad mesh as one ordered loop of vertices, from the lowest number towards its lower
    neighbour. Raises ValueError when the boundary is not a single loop."""
    sides = np.sort(np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    edges, uses = np.unique(sides, axis=0, return_counts=True)
    neighbours: dict[int, list[int]] = {}
    for a, b in edges[uses == 1].tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    loop = [min(neighbours)]
    step = min(neighbours[loop[0]])
    while step != loop[0]:
        loop.append(step)
        step = next(n for n in neighbours[step] if n != loop[-2])
    if len(loop) != len(neighbours):
        raise ValueError(f"the head's open boundary has {len(neighbours)} vertices, its first loop only {len(loop)}")
    return np.array(loop)
