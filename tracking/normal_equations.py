"""The linear system of a clip: a block per frame, weak coupling over time, a few unknowns that all frames share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from torch import Tensor

Doubles = NDArray[np.float64]


class NotPositiveError(Exception):
    """The damped system is not positive definite: more damping is needed."""


@dataclass(eq=False)
class NormalEquations:
    """Gauss-Newton's H and gradient for T frames of D unknowns and S shared ones; float64 on one device.

    blocks [T,D,D], gradient [T,D]; next, after_next [T,D]: diagonals of the blocks that couple frame t with t + 1 and
    t + 2 (the last rows unused); border [T,D,S] couples frames with the shared unknowns; shared [S,S],
    shared_gradient [S].
    """

    blocks: Tensor
    gradient: Tensor
    next: Tensor
    after_next: Tensor
    border: Tensor
    shared: Tensor
    shared_gradient: Tensor

    @classmethod
    def zeros(
        cls, frames: int, unknowns: int, shared: int, device: torch.device | None = None
    ) -> NormalEquations:
        shapes = ((frames, unknowns, unknowns), *((frames, unknowns),) * 3, (frames, unknowns, shared),
                  (shared, shared), (shared,))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def hold(self, held: Tensor, shared_held: Tensor) -> None:
        """Take unknowns out, in place: held bool [T,D], shared_held bool [S]. Their step becomes zero."""
        free = ~held
        self.blocks *= free[:, :, None] & free[:, None, :]
        self.blocks.diagonal(dim1=1, dim2=2).masked_fill_(held, 1)
        self.gradient *= free
        for reach, band in ((1, self.next), (2, self.after_next)):
            band[:-reach] *= free[:-reach] & free[reach:]
        self.border *= free[:, :, None] & ~shared_held
        self.shared *= ~shared_held[:, None] & ~shared_held
        self.shared.diagonal().masked_fill_(shared_held, 1)
        self.shared_gradient *= ~shared_held


def solve(equations: NormalEquations, damping: float) -> tuple[Tensor, Tensor]:
    """The Levenberg-Marquardt step (H + damping diag H) x = -gradient: per frame [T,D] and shared [S].

    Frames in pairs form a block tridiagonal matrix, which is solved exactly; the shared unknowns follow by the Schur
    complement. Raises NotPositiveError.
    """
    frames, unknowns = equations.gradient.shape
    chain = _pairs(equations, damping)
    try:
        solved = eliminated_by_halves(*chain) if equations.blocks.is_cuda else _eliminated_in_order(*chain)
        border, gradient = solved[..., :-1], solved[..., -1]
        schur = equations.shared + damping * torch.diag(equations.shared.diagonal())
        schur = schur - torch.einsum("tda,tdb->ab", _frames_of(chain[2], frames)[..., :-1], _frames_of(border, frames))
        rest = torch.einsum("tda,td->a", equations.border, _frames_of(gradient, frames)) - equations.shared_gradient
        shared = torch.cholesky_solve(rest[:, None], torch.linalg.cholesky(schur))[:, 0]
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
        raise NotPositiveError(str(error)) from error
    step = -gradient - border @ shared
    return step.reshape(-1, unknowns)[:frames], shared


def _frames_of(pairs: Tensor, frames: int) -> Tensor:
    """[P,2D,...] -> [T,D,...]."""
    return pairs.reshape(2 * len(pairs), pairs.shape[1] // 2, *pairs.shape[2:])[:frames]


def eliminated_by_halves(blocks: Tensor, couplings: Tensor, sides: Tensor) -> Tensor:
    """Solve a block tridiagonal system, see `_eliminated_in_order`, with every second block eliminated at once.

    Cyclic reduction (Hockney 1965): some log2(P) rounds of batched operations instead of P small ones, and nearly three
    times the arithmetic, which a GPU does not notice.
    """
    if len(blocks) == 1:
        return torch.cholesky_solve(sides, torch.linalg.cholesky(blocks))
    kept, gone = (len(blocks) + 1) // 2, len(blocks) // 2
    factor = torch.linalg.cholesky(blocks[1::2])
    after = torch.zeros_like(blocks[1::2])
    after[:kept - 1] = couplings[1::2].mT
    reduced = torch.linalg.solve_triangular(
        factor, torch.cat([couplings[0::2], after, sides[1::2]], 2), upper=False)
    to_before, to_after, own = reduced.split([blocks.shape[1], blocks.shape[1], sides.shape[2]], 2)
    to_after = to_after[:kept - 1]
    blocks, new_sides = blocks[0::2].clone(), sides[0::2].clone()
    blocks[:gone] -= to_before.mT @ to_before
    blocks[1:] -= to_after.mT @ to_after
    new_sides[:gone] -= to_before.mT @ own
    new_sides[1:] -= to_after.mT @ own[:kept - 1]
    known = eliminated_by_halves(blocks, -(to_after.mT @ to_before[:kept - 1]), new_sides)
    rest = own - to_before @ known[:gone]
    rest[:kept - 1] -= to_after @ known[1:]
    result = torch.empty_like(sides)
    result[0::2], result[1::2] = known, torch.linalg.solve_triangular(factor.mT, rest, upper=True)
    return result


def _eliminated_in_order(blocks: Tensor, couplings: Tensor, sides: Tensor) -> Tensor:
    """Solve A x = sides [P,N,C] for a symmetric A of blocks [P,N,N] and the blocks below them, couplings [P-1,N,N].

    Cholesky's factor pair by pair: the least arithmetic, for a CPU.
    """
    factors: list[Doubles] = []
    links: list[Doubles] = []
    below, result = couplings.numpy(), sides.clone()
    values = result.numpy()  # the same memory
    for pair, block in enumerate(blocks.numpy()):
        if pair:
            link = solve_triangular(factors[-1], below[pair - 1].T, lower=True, check_finite=False).T
            block = block - link @ link.T
            values[pair] -= link @ values[pair - 1]
            links.append(link)
        factors.append(cholesky(block, lower=True))
        values[pair] = solve_triangular(factors[-1], values[pair], lower=True, check_finite=False)
    for pair in reversed(range(len(factors))):
        if pair + 1 < len(factors):
            values[pair] -= links[pair].T @ values[pair + 1]
        values[pair] = solve_triangular(factors[pair], values[pair], lower=True, trans="T", check_finite=False)
    return result


def _pairs(equations: NormalEquations, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two frames a block: damped H [P,2D,2D], the blocks below the diagonal [P-1,2D,2D], [border, gradient] [P,2D,S+1].

    An odd clip gets a last frame without any information, whose block is the identity.
    """
    frames, n = equations.gradient.shape
    pairs, new = (frames + 1) // 2, equations.blocks.new_zeros
    blocks, sides = new(pairs, 2 * n, 2 * n), new(pairs * 2, n, len(equations.shared_gradient) + 1)
    sides[:frames, :, :-1], sides[:frames, :, -1] = equations.border, equations.gradient
    damped = equations.blocks * (1 + damping * torch.eye(n, dtype=blocks.dtype, device=blocks.device))
    blocks[:, :n, :n] = damped[::2]
    blocks[:, n:, n:].diagonal(dim1=1, dim2=2).fill_(1)
    blocks[:frames // 2, n:, n:] = damped[1::2]
    within = equations.next[::2][:frames // 2]
    for corner in (blocks[:frames // 2, n:, :n], blocks[:frames // 2, :n, n:]):
        corner.diagonal(dim1=1, dim2=2).copy_(within)
    couplings = new(max(pairs - 1, 0), 2 * n, 2 * n)
    couplings[:, :n, :n].diagonal(dim1=1, dim2=2).copy_(equations.after_next[:2 * len(couplings):2])
    couplings[:, :n, n:].diagonal(dim1=1, dim2=2).copy_(equations.next[1:2 * len(couplings):2])
    whole = max(frames - 2, 0) // 2  # of the couplings, those to a pair with a second frame
    couplings[:whole, n:, n:].diagonal(dim1=1, dim2=2).copy_(equations.after_next[1:2 * whole:2])
    return blocks, couplings, sides.reshape(pairs, 2 * n, -1)
