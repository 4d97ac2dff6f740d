"""The linear system of a clip: a block per frame, weak coupling over time, a few unknowns that all frames share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

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

    Frames in pairs form a block tridiagonal matrix, whose Cholesky factor L is found pair by pair; the shared unknowns
    follow by the Schur complement, so the step is exact. Raises NotPositiveError.
    """
    frames, unknowns = equations.gradient.shape
    try:
        factors, links, solved = _factor(equations, damping)
        by_shared, by_gradient = solved[..., :-1], solved[..., -1]
        schur = equations.shared + damping * np.diag(np.diag(equations.shared))
        schur -= np.einsum("pda,pdb->ab", by_shared, by_shared, optimize=True)
        rest = np.einsum("pda,pd->a", by_shared, by_gradient) - equations.shared_gradient
        shared = cho_solve(cho_factor(schur, lower=True), rest)
    except np.linalg.LinAlgError as error:
        raise NotPositiveError(str(error)) from error
    step = -by_gradient - by_shared @ shared
    for pair in reversed(range(len(factors))):
        if pair + 1 < len(factors):
            step[pair] -= links[pair + 1].T @ step[pair + 1]
        step[pair] = solve_triangular(factors[pair], step[pair], lower=True, trans="T", check_finite=False)
    return step.reshape(-1, unknowns)[:frames], shared


def _factor(equations: NormalEquations, damping: float) -> tuple[list[Doubles], list[Doubles], Doubles]:
    """L's diagonal blocks and the blocks left of them [P][2D,2D], and L^-1 [border, gradient] [P,2D,S+1]."""
    blocks, couplings, sides = _pairs(equations, damping)
    factors: list[Doubles] = []
    links: list[Doubles] = []
    for pair, block in enumerate(blocks):
        link = np.zeros_like(block)
        if pair:
            link = solve_triangular(factors[-1], couplings[pair - 1].T, lower=True, check_finite=False).T
            block = block - link @ link.T
            sides[pair] -= link @ sides[pair - 1]
        factors.append(cholesky(block, lower=True))
        links.append(link)
        sides[pair] = solve_triangular(factors[-1], sides[pair], lower=True, check_finite=False)
    return factors, links, sides


def _pairs(equations: NormalEquations, damping: float) -> tuple[Doubles, Doubles, Doubles]:
    """Two frames a block: damped H [P,2D,2D], the blocks below the diagonal [P-1,2D,2D], [border, gradient] [P,2D,S+1].

    An odd clip gets a last frame without any information, whose block is the identity.
    """
    frames, unknowns = equations.gradient.shape
    pairs, n = (frames + 1) // 2, unknowns
    blocks, sides = np.zeros((pairs, 2 * n, 2 * n)), np.zeros((pairs * 2, n, len(equations.shared_gradient) + 1))
    sides[:frames, :, :-1], sides[:frames, :, -1] = equations.border, equations.gradient
    damped = equations.blocks * (1 + damping * np.eye(n))
    blocks[:, :n, :n] = damped[::2]
    blocks[:, n:, n:] = np.eye(n)
    blocks[:frames // 2, n:, n:] = damped[1::2]
    index = np.arange(n)
    within = equations.next[::2][:frames // 2]
    blocks[:frames // 2, n + index, index] = blocks[:frames // 2, index, n + index] = within
    couplings = np.zeros((max(pairs - 1, 0), 2 * n, 2 * n))
    couplings[:, index, index] = equations.after_next[:2 * len(couplings):2]
    couplings[:, index, n + index] = equations.next[1:2 * len(couplings):2]
    whole = max(frames - 2, 0) // 2  # of the couplings, those to a pair with a second frame
    couplings[:whole, n + index, n + index] = equations.after_next[1:2 * whole:2]
    return blocks, couplings, sides.reshape(pairs, 2 * n, -1)
