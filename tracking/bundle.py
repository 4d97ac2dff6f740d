"""Bundle adjustment of a head over a clip: unknowns, cost terms, and the Levenberg-Marquardt loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from flame.rotations import matrix_from_axis_angle, matrix_to_axis_angle, skew
from tracking.normal_equations import NormalEquations, NotPositiveError, Solver
from tracking.surface import (
    EYE_ANGLES,
    JAW_ANGLES,
    LIDS,
    Codes,
    SurfacePoints,
    camera_by_pose,
    pixel_by_camera,
    turns_of,
)
from utils.parallel import in_order, usual_threads

POSE = 6
"""Unknowns of a frame before its codes: rotation increment (radians, camera axes), then x / z, y / z and log z of t.

Focal length and distance trade along f / z = constant: a straight line in the logarithms, which steps can follow.
"""

CHUNK_BYTES = {"cpu": 24 * 2**20, "cuda": 512 * 2**20}
"""Bounds the derivatives of grey values that are formed at once, on a CPU by each thread."""

CHUNK_FRAMES = {"cpu": 64, "cuda": 512}  # worked on at once at most; on a GPU each piece costs its launches

Part = TypeVar("Part")

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps at most."""


@dataclass(frozen=True, eq=False)
class State:
    """The unknowns: shape [S]; log_focal [C] (pixels); codes [T,E+9] (expression, jaw, eyes, lids: see
    `surface.Codes`); R [T,3,3], t [T,3] head to camera 0; rig_R [C,3,3], rig_t [C,3] from there to camera c, the
    first of which stay I and 0. float32 on one device.
    """

    shape: Tensor
    log_focal: Tensor
    codes: Tensor
    R: Tensor
    t: Tensor
    rig_R: Tensor
    rig_t: Tensor

    @property
    def shared(self) -> int:
        """Number of unknowns that all frames share: shape, a focal length per camera, 6 per camera but the first."""
        return len(self.shape) + 7 * len(self.log_focal) - 6

    @property
    def rig_at(self) -> int:
        """Number of the first of them that belongs to the rig."""
        return len(self.shape) + len(self.log_focal)

    def split(self, frames: slice = slice(None)) -> Codes:
        codes = self.codes[frames]
        return Codes(*codes.split([codes.shape[1] - JAW_ANGLES - EYE_ANGLES - LIDS, JAW_ANGLES, EYE_ANGLES, LIDS], 1))

    def moved(self, step: Tensor, shared: Tensor, low: Tensor, high: Tensor) -> State:
        """One step [T,6+K], [shared] on, codes kept within low, high [K]."""
        count = len(self.log_focal)
        shape, focal, rig = shared.split([len(self.shape), count, 6 * (count - 1)])
        turn, shift = torch.cat([rig.new_zeros(1, 6), rig.reshape(-1, 6)]).split(3, 1)
        return State(
            self.shape + shape, self.log_focal + focal, torch.clamp(self.codes + step[:, POSE:], low, high),
            matrix_from_axis_angle(step[:, :3]) @ self.R, _translation(_bearing(self.t) + step[:, 3:POSE]),
            matrix_from_axis_angle(turn) @ self.rig_R, self.rig_t + shift,
        )  # fmt: skip


def _bearing(t: Tensor) -> Tensor:
    """[T,3] -> x / z, y / z, log z."""
    return torch.cat([t[:, :2] / t[:, 2:], t[:, 2:].log()], 1)


def _translation(bearing: Tensor) -> Tensor:
    """Inverse of `_bearing`."""
    z = bearing[:, 2:].exp()
    return torch.cat([bearing[:, :2] * z, z], 1)


class DataTerm(Protocol):
    """A residual of projected surface points. points: which; offset [L,3] added to them in head space; camera: number
    of the camera that sees them; center [2]: its principal point, pixels.
    """

    points: SurfacePoints
    offset: Tensor
    camera: int
    center: Tensor

    def residual(self, frames: slice, pixels: Tensor, want_slope: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """pixels [C,L,2] -> residual [C,L,K]; its derivative by the pixels [C,L,K,2] when wanted; precision [C,L].

        A point's cost is Cauchy's: precision * c^2 log(1 + |r|^2 / c^2) / 2 with c = `cutoff`.
        """
        ...

    cutoff: float


@dataclass(frozen=True, eq=False)
class Prior:
    """Quadratic terms. codes: sum of weight (rows @ codes - target)^2 / 2 with rows [M,K], target [T,M], weight [M].
    smooth [6+K]: precision of second differences of each unknown; steady bool [T]: frame t lies evenly between its
    neighbours. shape [S,S]: precision of the shape codes; focal [C], focal_precision: log focal lengths.
    """

    rows: Tensor
    target: Tensor
    weight: Tensor
    smooth: Tensor
    steady: Tensor
    shape: Tensor
    focal: Tensor
    focal_precision: float


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised. low, high [K]: bounds of the codes. held [6+K], held_shared [shared]: unknowns that stay as
    they are. passed(frames): called while an iteration works, as it gets through a term.
    """

    terms: Sequence[DataTerm]
    prior: Prior
    low: Tensor
    high: Tensor
    held: Tensor
    held_shared: Tensor
    passed: Callable[[int], None] = lambda frames: None


# The blocks are too small for more than one thread of BLAS: with many cores they only wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")
def minimise(
    problem: Problem, state: State, iterations: int, tolerance: float, progress: Progress | None, lasting: int = 1
) -> State:
    """Levenberg-Marquardt with bounds until the cost falls by less than `tolerance` of itself, or `iterations`.

    lasting: for how many steps second derivatives, and what they say is at its bound, are used. Steps after the first
    need the gradient alone, a fifth of the work (Shamanskii 1967), and get nearly as far; it comes with the cost of the
    step before.
    """
    damping, cost = 1e-4, total_cost(problem, state)
    slope: tuple[Tensor, Tensor] | None = None
    for iteration in range(iterations):
        before, fresh = cost, slope is None
        if slope is None:
            equations = normal_equations(problem, state)
            held = _held(problem, state, equations.gradient)
            equations, solver = equations.holding(held, problem.held_shared), None
            slope = equations.gradient, equations.shared_gradient
        while damping < 1e6:
            solver = solver or _solver(equations, damping)
            if solver is not None:
                trial = _stepped(problem, state, solver.step(*slope))
                last = (iteration + 1) % lasting == 0
                trial_cost, trial_slope = _looked_at(problem, trial, None if last else held)
                if trial_cost <= cost:
                    state, cost, slope = trial, trial_cost, trial_slope
                    damping = max(damping / 10, 1e-9)
                    break
            if not fresh:
                break
            solver, damping = None, damping * 6
        if progress is not None:
            progress(iteration + 1, iterations)
        if not cost < before * (1 - tolerance):
            break
    return state


def project(
    state: State, points: Tensor, term: DataTerm, frames: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """Points [F,L,3] of some frames as the term's camera sees them: pixels [F,L,2], coordinates [F,L,3] of that camera
    and of camera 0.
    """
    first = points @ state.R[frames].mT + state.t[frames, None]
    camera = first @ state.rig_R[term.camera].T + state.rig_t[term.camera] if term.camera else first
    focal = state.log_focal[term.camera].exp()
    return focal * camera[..., :2] / camera[..., 2:].clamp_min(1e-3) + term.center, camera, first


def total_cost(problem: Problem, state: State) -> float:
    costs = _by_parts(lambda term, frames: float(_data_cost(term, state, frames)), problem, state)
    return sum(costs) + float(_prior_cost(problem.prior, state))


def cost_and_gradient(problem: Problem, state: State) -> tuple[float, Tensor, Tensor]:
    """`total_cost`, and the gradient of `normal_equations`, [T,D] and [S], by backpropagation."""
    still = state.codes.new_zeros(len(state.t), POSE + state.codes.shape[1], requires_grad=True)
    shared_still = state.shape.new_zeros(state.shared, requires_grad=True)
    moved = vars(state.moved(still, shared_still, problem.low, problem.high)).values()
    leaves = [value.detach().requires_grad_() for value in moved]
    at = State(*leaves)

    def of(cost: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        return float(cost.detach()), torch.autograd.grad(cost, leaves, allow_unused=True, materialize_grads=True)

    whole, total = of(_prior_cost(problem.prior, at))
    for cost, part in _by_parts(lambda term, frames: of(_data_cost(term, at, frames)), problem, state):
        whole += cost
        total = tuple(a + b for a, b in zip(total, part, strict=True))
    # A sum, since PyTorch imports SymPy, a second of work, where it is given gradients to pull back.
    pulled = torch.stack([(value * by).sum() for value, by in zip(moved, total, strict=True)]).sum()
    by_frame, shared = torch.autograd.grad(pulled, [still, shared_still])
    return whole, by_frame.double(), shared.double()


def _data_cost(term: DataTerm, state: State, frames: slice) -> Tensor:
    codes = state.split(frames)
    points = term.points.place(state.shape, codes, turns_of(codes)) + term.offset
    residual, _, precision = term.residual(frames, project(state, points, term, frames)[0], False)
    square = (residual**2).sum(-1)
    return (precision * torch.log1p(square / term.cutoff**2)).double().sum() * (term.cutoff**2 / 2)


def normal_equations(problem: Problem, state: State) -> NormalEquations:
    frames, unknowns = len(state.t), POSE + state.codes.shape[1]
    equations = NormalEquations.zeros(frames, unknowns, state.shared, state.t.device)
    spare: list[Tensor] = []  # memory to be used again: fresh memory costs as much as a third of the work in it

    def products(term: DataTerm, part: slice) -> tuple[slice, Tensor, Tensor, Tensor, Tensor]:
        try:
            memory = spare.pop()
        except IndexError:  # asked for, not looked at before: another thread may be faster
            memory = state.t.new_empty(0)
        columns, value = _derivatives(problem, state, term, part, memory)
        found = _products(columns, value, unknowns)
        spare.append(columns)
        return part, *found

    # Added by this thread alone: pieces of several terms are of the same frames, and `+=` of two threads loses one.
    for part, product, gradient, shared, shared_gradient in _by_parts(products, problem, state,
                                                                      unknowns + state.shared):
        equations.blocks[part] += product[..., :unknowns]
        equations.gradient[part] += gradient
        if len(shared):
            equations.border[part] += product[..., unknowns:]
            equations.shared += shared
            equations.shared_gradient += shared_gradient
    _add_prior(equations, problem.prior, state)
    return equations


def _by_parts(
    work: Callable[[DataTerm, slice], Part], problem: Problem, state: State, columns: int = 0
) -> Iterator[Part]:
    """work(term, frames) of all terms, some frames at a time, in order: on a CPU by several threads. columns: that are
    formed for every row.
    """
    kind = state.t.device.type
    limit, most = CHUNK_BYTES[kind] // 4, CHUNK_FRAMES[kind]
    jobs = [(term, frames) for term in problem.terms
            for frames in parts(len(state.t), max(1, min(most, limit // (max(columns, 1) * len(term.points)))))]
    threads = 1 if state.t.is_cuda else usual_threads()
    for (_, frames), part in zip(jobs, in_order(lambda job: work(*job), jobs, threads), strict=True):
        problem.passed(frames.stop - frames.start)
        yield part


def parts(count: int, step: int = 32) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _derivatives(
    problem: Problem, state: State, term: DataTerm, frames: slice, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted residuals' derivatives [F,R,D+shared] by a frame's unknowns and the shared ones, or [F,R,D] where all of
    those are held, and the residuals [F,R]. memory: of an earlier result, written over if it is large enough.
    """
    codes = state.split(frames)
    turns = turns_of(codes)
    points = term.points.place(state.shape, codes, turns) + term.offset
    pixels, camera, first = project(state, points, term, frames)
    residual, slope, precision = term.residual(frames, pixels, True)
    # iteratively reweighted least squares: Cauchy's weight
    weight = (precision / (1 + (residual**2).sum(-1) / term.cutoff**2)).sqrt()[..., None]
    by_pixel = weight[..., None] * (torch.eye(2, device=pixels.device) if slope is None else slope)
    by_camera = by_pixel @ pixel_by_camera(camera, float(state.log_focal[term.camera].exp()))
    by_first = by_camera @ state.rig_R[term.camera] if term.camera else by_camera
    own, free = POSE + state.codes.shape[1], not bool(problem.held_shared.all())
    shape = (*by_camera.shape[:3], own + (state.shared if free else 0))
    fits = memory.numel() >= np.prod(shape)
    columns = memory.flatten()[:int(np.prod(shape))].view(shape) if fits else camera.new_empty(shape)
    columns[..., :POSE] = by_first @ camera_by_pose(first, state.t[frames])
    moving = columns[..., POSE:own + (len(state.shape) if free else 0)]
    term.points.derivative(by_first @ state.R[frames, None], state.shape, codes, turns, moving)
    if free:
        rest = columns[..., own + len(state.shape):]  # a focal length for each camera, then the rig
        rest.zero_()
        rest[..., term.camera] = (by_pixel @ (pixels - term.center)[..., None])[..., 0]
        if term.camera:
            at = len(state.log_focal) + 6 * (term.camera - 1)
            lever = torch.cat([-skew(camera - state.rig_t[term.camera]), _eyes_like(camera)], -1)
            rest[..., at:at + 6] = by_camera @ lever
    return columns.flatten(1, 2), (weight * residual).flatten(1)


def _products(columns: Tensor, value: Tensor, unknowns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What weighted residuals and their derivatives, see `_derivatives`, add to the equations, float64: [F,D,D+S] and
    [F,D] of the frames, [S,S] and [S] of what is shared, or S = 0 where all of that is held.
    """
    own, common = columns[..., :unknowns], columns.flatten(0, 1)[:, unknowns:]
    found = own.mT @ columns, (own.mT @ value[..., None]).squeeze(-1), common.T @ common, common.T @ value.flatten()
    product, gradient, shared, shared_gradient = (tensor.double() for tensor in found)
    return product, gradient, shared, shared_gradient


def _eyes_like(points: Tensor) -> Tensor:
    """[...,3] -> [...,3,3]: unit matrices."""
    return torch.eye(3, device=points.device).expand(*points.shape, 3)


def _second_differences(state: State) -> Tensor:
    """[T,6+C], zero in the first and last frame; of the rotation by its steps' rotation vectors."""
    frames = len(state.t)
    result = state.codes.new_zeros(frames, POSE + state.codes.shape[1])
    if frames < 3:
        return result
    steps = matrix_to_axis_angle(state.R[1:] @ state.R[:-1].mT)
    values = torch.cat([_bearing(state.t), state.codes], 1)
    result[1:-1, :3] = steps[1:] - steps[:-1]
    result[1:-1, 3:] = values[2:] - 2 * values[1:-1] + values[:-2]
    return result


def _prior_cost(prior: Prior, state: State) -> Tensor:
    misfit = state.codes @ prior.rows.T - prior.target
    bend = _second_differences(state) * prior.steady[:, None]
    cost = (prior.weight * misfit**2).double().sum() + (prior.smooth * bend**2).double().sum()
    cost += (state.shape @ prior.shape @ state.shape).double()
    cost += prior.focal_precision * (state.log_focal.double() - prior.focal).square().sum()
    return cost / 2


def _add_prior(equations: NormalEquations, prior: Prior, state: State) -> None:
    rows, weight, target = prior.rows.double(), prior.weight.double(), prior.target.double()
    misfit = state.codes.double() @ rows.T - target
    equations.blocks[:, POSE:, POSE:] += rows.T @ (weight[:, None] * rows)
    equations.gradient[:, POSE:] += (weight * misfit) @ rows
    smooth, steady = prior.smooth.double(), prior.steady.double()[:, None]
    bend = _second_differences(state).double() * smooth * steady
    for shift, factor in ((-1, 1.0), (0, -2.0), (1, 1.0)):
        # steady is zero at both ends, so rolling wraps nothing around
        equations.gradient += factor * bend.roll(shift, 0)
        equations.blocks.diagonal(dim1=1, dim2=2).add_(factor**2 * smooth * steady.roll(shift, 0))
    equations.next += -2 * smooth * (steady + steady.roll(-1, 0))
    equations.after_next += smooth * steady.roll(-1, 0)
    n, focal = len(state.shape), slice(len(state.shape), state.rig_at)
    equations.shared[:n, :n] += prior.shape.double()
    equations.shared_gradient[:n] += (prior.shape @ state.shape).double()
    equations.shared.diagonal()[focal].add_(prior.focal_precision)
    equations.shared_gradient[focal] += prior.focal_precision * (state.log_focal - prior.focal).double()


def _held(problem: Problem, state: State, slope: Tensor) -> Tensor:
    """bool [T,D]: what is held, and codes at a bound that the gradient pushes against (Bertsekas' projected Newton)."""
    codes, slope = state.codes, slope[:, POSE:]
    stuck = ((codes <= problem.low) & (slope > 0)) | ((codes >= problem.high) & (slope < 0))
    return torch.cat([stuck.new_zeros(len(stuck), POSE), stuck], 1) | problem.held


def _solver(equations: NormalEquations, damping: float) -> Solver | None:
    try:
        return Solver(equations, damping)
    except NotPositiveError:
        return None


def _looked_at(
    problem: Problem, trial: State, held: Tensor | None
) -> tuple[float, tuple[Tensor, Tensor] | None]:
    """Its cost, and the gradient without what is held; None for `held`: no gradient."""
    if held is None:
        return total_cost(problem, trial), None
    cost, by_frame, shared = cost_and_gradient(problem, trial)
    return cost, (by_frame.masked_fill(held, 0), shared.masked_fill(problem.held_shared, 0))


def _stepped(problem: Problem, state: State, step: tuple[Tensor, Tensor]) -> State:
    by_frame, shared = step
    return state.moved(by_frame.float(), shared.float(), problem.low, problem.high)
