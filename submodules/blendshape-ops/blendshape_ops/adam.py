"""Adam over the neutral table and the expression differences, whose gradient comes as factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .reference import pair_gradient_torch
from .tables import WIDTH, Differences, active_columns, require


@dataclass(frozen=True)
class AdamStep:
    """The scalars of one Adam step (Kingma & Ba 2015, in the arrangement of torch.optim.Adam)."""

    beta1: float
    beta2: float
    eps: float
    bias_correction1: float
    sqrt_bias_correction2: float


class FactoredAdam:
    """Adam with a learning rate per column over `neutral` [N, 60] and `differences.values` [P, 60].

    The gradient of `neutral` is `neutral.grad`; that of the differences is formed from `differences.factors` while the
    rows are updated, plus `differences.values.grad` where the torch backend left one. Same trajectory as
    torch.optim.Adam on dense tables, to rounding: columns above the active SH degree have zero gradient and zero
    moments there, so they are skipped here. One step counter serves all rows, new ones included.

    `backend`: "torch" forms the gradient densely and is the definition; "cpp", "cuda" fuse; "auto" chooses by device.
    """

    def __init__(
        self,
        neutral: Tensor,
        differences: Differences,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        backend: str = "auto",
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas: wanted two numbers in [0, 1), got {betas}")
        if not eps > 0:
            raise ValueError(f"eps: wanted a positive number, got {eps}")
        self.betas, self.eps, self.backend, self.steps = betas, eps, backend, 0
        self._adopt(neutral, differences)
        self.neutral_exp_avg, self.neutral_exp_avg_sq = _zeros_like(neutral), _zeros_like(neutral)
        values = differences.values
        self.difference_exp_avg, self.difference_exp_avg_sq = _zeros_like(values), _zeros_like(values)

    @torch.no_grad()
    def step(self, neutral_lr: Tensor, difference_lr: Tensor, sh_degree: int) -> None:
        """One update in place; `neutral_lr`, `difference_lr` [60] are the columns' learning rates.

        Tables without any gradient (no `.grad`, no factors) are left alone, moments included, as torch.optim does.
        """
        columns = active_columns(sh_degree)
        self.steps += 1
        scalars = AdamStep(
            *self.betas, self.eps, 1 - self.betas[0] ** self.steps, (1 - self.betas[1] ** self.steps) ** 0.5
        )
        for name, rates in (("neutral_lr", neutral_lr), ("difference_lr", difference_lr)):
            require(rates, name, (WIDTH,))
        if self.neutral.grad is not None:
            state = (self.neutral, self.neutral.grad, self.neutral_exp_avg, self.neutral_exp_avg_sq)
            adam_update_torch(*state, neutral_lr, columns, scalars)
        gradient = self._difference_gradient()
        if gradient is not None:
            state = (self.differences.values, gradient, self.difference_exp_avg, self.difference_exp_avg_sq)
            adam_update_torch(*state, difference_lr, columns, scalars)

    def zero_grad(self) -> None:
        """Forget the gradient of the neutral table and the factors (and dense gradient) of the differences."""
        self.neutral.grad = None
        self.differences.values.grad = None
        self.differences.factors.clear()

    @torch.no_grad()
    def select_rows(self, index: Tensor, fresh: Tensor, neutral: Tensor, differences: Differences) -> None:
        """Go over to tables whose row i comes from row `index[i]` of the present ones (densification, pruning).

        `index` [N'] int64, `fresh` [N'] bool: rows whose moments start from zero (so do those of their pairs), the
        others take theirs along; `neutral` [N', 60], `differences` = the present ones' `select(index)` or with the
        same pairs.
        """
        count = index.numel()
        require(index, "index", (count,), torch.int64)
        require(fresh, "fresh", (count,), torch.bool)
        require(neutral, "neutral", (count, WIDTH), self.neutral.dtype)
        rows = self.differences.pairs_of(index)
        if differences.values.shape[0] != rows.numel() or differences.num_gaussians != count:
            raise ValueError(
                f"differences: wanted {rows.numel()} pairs of {count} Gaussians, "
                f"got {differences.values.shape[0]} of {differences.num_gaussians}"
            )
        fresh_pairs = fresh[differences.gaussian.long()]
        self.neutral_exp_avg = _select_moments(self.neutral_exp_avg, index, fresh)
        self.neutral_exp_avg_sq = _select_moments(self.neutral_exp_avg_sq, index, fresh)
        self.difference_exp_avg = _select_moments(self.difference_exp_avg, rows, fresh_pairs)
        self.difference_exp_avg_sq = _select_moments(self.difference_exp_avg_sq, rows, fresh_pairs)
        self._adopt(neutral, differences)

    def state_dict(self) -> dict[str, Any]:
        """The step counter and the four tables of moments (not copies)."""
        return {"steps": self.steps, **{name: getattr(self, name) for name in _MOMENTS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; ValueError when a name is missing, unexpected or of another shape."""
        wanted = {"steps", *_MOMENTS}
        if set(state) != wanted:
            missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
            raise ValueError(f"optimizer state: missing {missing}, unexpected {unexpected}")
        for name in _MOMENTS:
            require(state[name], name, tuple(getattr(self, name).shape))
        for name in _MOMENTS:
            getattr(self, name).copy_(state[name])
        self.steps = int(state["steps"])

    def _adopt(self, neutral: Tensor, differences: Differences) -> None:
        require(neutral, "neutral", (differences.num_gaussians, WIDTH), differences.values.dtype)
        if not neutral.is_contiguous() or not differences.values.is_contiguous():
            raise ValueError("neutral, values: wanted contiguous tables, because they are updated in place")
        self.neutral, self.differences = neutral, differences

    def _difference_gradient(self) -> Tensor | None:
        dense = self.differences.values.grad
        if not self.differences.factors:
            return dense
        gradient = pair_gradient_torch(self.differences)
        return gradient if dense is None else gradient + dense


_MOMENTS = ("neutral_exp_avg", "neutral_exp_avg_sq", "difference_exp_avg", "difference_exp_avg_sq")


def adam_update_torch(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rates: Tensor,
    columns: int,
    scalars: AdamStep,
) -> None:
    """The definition of one Adam step on the first `columns` columns of a table [rows, 60], in place."""
    g, m, v = (table[:, :columns] for table in (gradient, exp_avg, exp_avg_sq))
    m.lerp_(g, 1 - scalars.beta1)
    v.mul_(scalars.beta2).addcmul_(g, g, value=1 - scalars.beta2)
    denominator = (v.sqrt() / scalars.sqrt_bias_correction2).add_(scalars.eps)
    step_size = (rates.to(parameter) / scalars.bias_correction1)[:columns]
    parameter.detach()[:, :columns].sub_(step_size * m / denominator)


def _zeros_like(table: Tensor) -> Tensor:
    return torch.zeros_like(table, requires_grad=False)


def _select_moments(moments: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
    return moments[rows].masked_fill_(fresh[:, None], 0)
