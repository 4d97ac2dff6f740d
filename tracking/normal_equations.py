"""The linear system of a clip: a block per frame, weak coupling over time, a few unknowns that all frames share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtrs
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

    def holding(self, held: Tensor, shared_held: Tensor) -> NormalEquations:
        """The same without some unknowns: held bool [T,D], shared_held bool [S]. Their step is zero."""
        free, shared_free = ~held, ~shared_held
        blocks = self.blocks * (free[:, :, None] & free[:, None, :])
        blocks.diagonal(dim1=1, dim2=2).masked_fill_(held, 1)
        shared = self.shared * (shared_free[:, None] & shared_free)
        shared.diagonal().masked_fill_(shared_held, 1)
        following, after_next = self.next.clone(), self.after_next.clone()
        for reach, band in ((1, following), (2, after_next)):
            band[:-reach] *= free[:-reach] & free[reach:]
        return NormalEquations(
            blocks, self.gradient * free, following, after_next, self.border * (free[:, :, None] & shared_free),
            shared, self.shared_gradient * shared_free)


class Solver:
    """The Levenberg-Marquardt step (H + damping diag H) x = -gradient, for any gradient.

    Frames in pairs form a block tridiagonal matrix, which is solved exactly; the shared unknowns follow by the Schur
    complement. Raises NotPositiveError.
    """

    def __init__(self, equations: NormalEquations, damping: float) -> None:
        self.frames, self.unknowns = equations.gradient.shape
        blocks, couplings, self.border = _pairs(equations, damping)
        try:
            self.solved: Callable[[Tensor], Tensor] = (
                partial(eliminated_by_halves, blocks, couplings) if blocks.is_cuda else Chain(blocks, couplings).solved)
            self.by_shared = self.solved(self.border)
            schur = equations.shared + damping * torch.diag(equations.shared.diagonal())
            self.schur = torch.linalg.cholesky(schur - torch.einsum("pna,pnb->ab", self.border, self.by_shared))
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
            raise NotPositiveError(str(error)) from error

    def step(self, gradient: Tensor, shared_gradient: Tensor) -> tuple[Tensor, Tensor]:
        """[T,D], [S] -> the step per frame [T,D] and of the shared unknowns [S]."""
        own = gradient.new_zeros(len(self.border), 2 * self.unknowns, 1)
        _frames_of(own, self.frames).copy_(gradient[..., None])
        own = self.solved(own)
        rest = torch.einsum("pna,pn->a", self.border, own[..., 0]) - shared_gradient
        shared = torch.cholesky_solve(rest[:, None], self.schur)[:, 0]
        step = -own[..., 0] - self.by_shared @ shared
        return step.reshape(-1, self.unknowns)[:self.frames], shared


def _frames_of(pairs: Tensor, frames: int) -> Tensor:
    """[P,2D,...] -> [T,D,...]."""
    return pairs.reshape(2 * len(pairs), pairs.shape[1] // 2, *pairs.shape[2:])[:frames]


def eliminated_by_halves(blocks: Tensor, couplings: Tensor, sides: Tensor) -> Tensor:
    """Solve a block tridiagonal system, see `Chain`, with every second block eliminated at once.

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


class Chain:
    """Solves A x = sides [P,N,C] for a symmetric A of blocks [P,N,N] and the blocks below them, couplings [P-1,N,N].

    Cholesky's factor pair by pair: the least arithmetic, for a CPU. By LAPACK itself, since SciPy's functions about it
    take as long as these small systems. Raises LinAlgError.
    """

    def __init__(self, blocks: Tensor, couplings: Tensor) -> None:
        self.factors: list[Doubles] = []
        self.links: list[Doubles] = []
        below = couplings.numpy()
        for pair, block in enumerate(blocks.numpy()):
            if pair:
                link = _triangular(self.factors[-1], below[pair - 1].T).T
                block = block - link @ link.T
                self.links.append(link)
            factor, failed = dpotrf(block, lower=1, clean=1)
            if failed:
                raise np.linalg.LinAlgError(f"pair {pair} of frames: not positive definite")
            self.factors.append(factor)

    def solved(self, sides: Tensor) -> Tensor:
        """x [P,N,C]."""
        result = sides.clone()
        values, last = result.numpy(), len(self.factors) - 1  # the same memory
        for pair, factor in enumerate(self.factors):
            if pair:
                values[pair] -= self.links[pair - 1] @ values[pair - 1]
            values[pair] = _triangular(factor, values[pair])
        for pair in range(last, -1, -1):
            if pair < last:
                values[pair] -= self.links[pair].T @ values[pair + 1]
            values[pair] = _triangular(self.factors[pair], values[pair], transposed=True)
        return result


def _triangular(factor: Doubles, sides: Doubles, transposed: bool = False) -> Doubles:
    """x [N,C] of factor x = sides, with a lower triangular factor [N,N] or its transpose."""
    solution, failed = dtrtrs(factor, sides, lower=1, trans=int(transposed))
    if failed:
        raise np.linalg.LinAlgError("a singular triangle")
    return np.asarray(solution)


def _pairs(equations: NormalEquations, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two frames a block: damped H [P,2D,2D], the blocks below the diagonal [P-1,2D,2D], the border [P,2D,S].

    An odd clip gets a last frame without any information, whose block is the identity.
    """
    frames, n = equations.gradient.shape
    pairs, new = (frames + 1) // 2, equations.blocks.new_zeros
    blocks, border = new(pairs, 2 * n, 2 * n), new(pairs * 2, n, len(equations.shared_gradient))
    border[:frames] = equations.border
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
    return blocks, couplings, border.reshape(pairs, 2 * n, -1)
