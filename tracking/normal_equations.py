"""The linear system of a clip: a block per frame, weak coupling over time, a few unknowns that all frames share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded

Doubles = NDArray[np.float64]


class NotPositiveError(Exception):
    """The damped system is not positive definite: more damping is needed."""


@dataclass(eq=False)
class NormalEquations:
    """Gauss-Newton's H and gradient for T frames of D unknowns and S shared ones; float64.

    blocks [T,D,D], gradient [T,D]; next, after_next [T,D]: diagonals of the blocks that couple frame t with t + 1 and
    t + 2 (the last rows unused); border [T,D,S] couples frames with the shared unknowns; shared [S,S],
    shared_gradient [S].
    """

    blocks: Doubles
    gradient: Doubles
    next: Doubles
    after_next: Doubles
    border: Doubles
    shared: Doubles
    shared_gradient: Doubles

    @classmethod
    def zeros(cls, frames: int, unknowns: int, shared: int) -> NormalEquations:
        return cls(
            np.zeros((frames, unknowns, unknowns)), np.zeros((frames, unknowns)), np.zeros((frames, unknowns)),
            np.zeros((frames, unknowns)), np.zeros((frames, unknowns, shared)), np.zeros((shared, shared)),
            np.zeros(shared),
        )  # fmt: skip

    def hold(self, held: NDArray[np.bool_], shared_held: NDArray[np.bool_]) -> None:
        """Take unknowns out, in place: held [T,D], shared_held [S]. Their step becomes zero."""
        free = ~held
        self.blocks *= free[:, :, None] & free[:, None, :]
        rows, diagonal = np.nonzero(held)
        self.blocks[rows, diagonal, diagonal] = 1
        self.gradient *= free
        for reach, band in ((1, self.next), (2, self.after_next)):
            band[:-reach] *= free[:-reach] & free[reach:]
        self.border *= free[:, :, None] & ~shared_held
        self.shared *= ~shared_held[:, None] & ~shared_held
        self.shared[shared_held, shared_held] = 1
        self.shared_gradient *= ~shared_held


def solve(equations: NormalEquations, damping: float) -> tuple[Doubles, Doubles]:
    """The Levenberg-Marquardt step (H + damping diag H) x = -gradient: per frame [T,D] and shared [S].

    The frames' part is a band of half-width 2 D, factored directly; the shared unknowns follow by the Schur
    complement, so the step is exact. Raises NotPositiveError.
    """
    frames, unknowns = equations.gradient.shape
    count = frames * unknowns
    try:
        factor = cholesky_banded(_band(equations, damping), lower=True, overwrite_ab=True, check_finite=False)
        border = equations.border.reshape(count, -1)
        sides = np.concatenate([border, equations.gradient.reshape(count, 1)], axis=1)
        solved = cho_solve_banded((factor, True), sides, check_finite=False)
        by_shared, by_gradient = solved[:, :-1], solved[:, -1]
        schur = equations.shared + damping * np.diag(np.diag(equations.shared)) - border.T @ by_shared
        lower = np.linalg.cholesky(schur)
    except np.linalg.LinAlgError as error:
        raise NotPositiveError(str(error)) from error
    rest = equations.shared_gradient - border.T @ by_gradient
    shared = -np.linalg.solve(lower.T, np.linalg.solve(lower, rest))
    step = -by_gradient - by_shared @ shared
    if not (np.isfinite(step).all() and np.isfinite(shared).all()):
        raise NotPositiveError("the step is not finite")
    return step.reshape(frames, unknowns), shared


def _band(equations: NormalEquations, damping: float) -> Doubles:
    """Lower band storage: band[k, j] = H[j + k, j]."""
    frames, unknowns = equations.gradient.shape
    count = frames * unknowns
    band = np.zeros((2 * unknowns + 1, count))
    row, column = np.tril_indices(unknowns)
    start = unknowns * np.arange(frames)[:, None]
    band[row - column, start + column] = equations.blocks[:, row, column]
    band[0] *= 1 + damping
    for reach, coupling in ((1, equations.next), (2, equations.after_next)):
        if frames > reach:
            band[reach * unknowns, : (frames - reach) * unknowns] = coupling[:-reach].ravel()
    return band[: min(len(band), count)]
