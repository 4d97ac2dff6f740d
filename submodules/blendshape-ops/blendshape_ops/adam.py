"""Adam over the neutral table and the expression differences, whose gradient comes as factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import backends, native_adam
from .reference import pair_gradient_torch
from .tables import WIDTH, Differences, active_columns, require


class FactoredAdam:
    """Adam with a learning rate per column over `neutral` [N, 60] and `differences.values` [P, 60].

    The gradient of `neutral` is `neutral.grad`; that of the differences is formed from `differences.factors` while the
    rows are updated, plus `differences.values.grad` where the torch backend left one. Same trajectory as
    torch.optim.Adam on dense tables, to rounding: columns above the active SH degree have zero gradient and zero
    moments there, so they are skipped here. One step counter serves all rows, new ones included.

    `factored`, at first `differences` itself, is whose factors count: it may be set to `differences.with_pairs()[0]`.

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
        self.betas, self.eps, self.backend = betas, eps, backend
        self.steps = torch.zeros((), dtype=torch.int64, device=neutral.device)
        self._adopt(neutral, differences)
        self.neutral_exp_avg, self.neutral_exp_avg_sq = _zeros_like(neutral), _zeros_like(neutral)
        values = differences.values
        self.difference_exp_avg, self.difference_exp_avg_sq = _zeros_like(values), _zeros_like(values)

    @torch.no_grad()
    def step(self, neutral_lr: Tensor, difference_lr: Tensor, sh_degree: int) -> None:
        """One update in place; `neutral_lr`, `difference_lr` [60] are the columns' learning rates.

        Tables without any gradient (no `.grad`, no factors) are left alone, moments included, as torch.optim does.
        """
        active_columns(sh_degree)
        for name, rates in (("neutral_lr", neutral_lr), ("difference_lr", difference_lr)):
            require(rates, name, (WIDTH,))
        backend = backends.resolve(self.backend, self.neutral)
        neutral_schedule, schedule = self._advance(torch.stack([neutral_lr, difference_lr]), backend)
        moments = (self.neutral_exp_avg, self.neutral_exp_avg_sq)
        if self.neutral.grad is not None:
            self._step_table(self.neutral, self.neutral.grad, moments, neutral_schedule, sh_degree)
        values, dense = self.differences.values, self.differences.values.grad
        moments = (self.difference_exp_avg, self.difference_exp_avg_sq)
        if self.factored.factors and (dense is not None or backend == "torch"):
            gradient = pair_gradient_torch(self.factored)
            self._step_table(values, gradient if dense is None else gradient + dense, moments, schedule, sh_degree)
        elif self.factored.factors:
            args = native_adam.table_args(self._scalars(), schedule, values, moments)
            native_adam.step_differences(backend, args, self.factored, sh_degree)
        elif dense is not None:
            self._step_table(values, dense, moments, schedule, sh_degree)

    def zero_grad(self) -> None:
        """Forget the gradient of the neutral table and the factors (and dense gradient) of the differences."""
        self.neutral.grad = None
        self.differences.values.grad = None
        self.differences.factors.clear()
        self.factored.factors.clear()

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
        """The step counter (int64 scalar) and the four tables of moments, not copies."""
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
        self.steps.fill_(int(state["steps"]))

    def _adopt(self, neutral: Tensor, differences: Differences) -> None:
        require(neutral, "neutral", (differences.num_gaussians, WIDTH), differences.values.dtype)
        if not neutral.is_contiguous() or not differences.values.is_contiguous():
            raise ValueError("neutral, values: wanted contiguous tables, because they are updated in place")
        self.neutral, self.differences = neutral, differences
        self.factored = differences

    def _advance(self, rates: Tensor, backend: str) -> Tensor:
        """Count a step; learning rates [2, 60] to schedules [2, 61] (see `adam_update_torch`).

        The counter is a tensor, so that on a GPU nothing waits and a captured graph keeps counting.
        """
        rates = rates.to(self.steps.device, torch.float64)
        if backend == "cuda":
            return native_adam.advance_cuda(self.steps, rates, self.betas, self.neutral)
        self.steps += 1
        steps = self.steps.double()
        root = (1 - self.betas[1] ** steps).sqrt()
        return torch.cat([rates / (1 - self.betas[0] ** steps), root.expand(2, 1)], 1).to(self.neutral.dtype)

    def _scalars(self) -> dict[str, float]:
        beta1, beta2 = self.betas
        return {"one_minus_beta1": 1 - beta1, "beta2": beta2, "one_minus_beta2": 1 - beta2, "eps": self.eps}

    def _step_table(
        self, table: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], schedule: Tensor, sh_degree: int
    ) -> None:
        backend = backends.resolve(self.backend, self.neutral)
        if backend == "torch":
            adam_update_torch(table, gradient, moments, schedule, active_columns(sh_degree), self._scalars())
        else:
            args = native_adam.table_args(self._scalars(), schedule, table, moments)
            native_adam.step_table(backend, args, table, gradient, sh_degree)


_MOMENTS = ("neutral_exp_avg", "neutral_exp_avg_sq", "difference_exp_avg", "difference_exp_avg_sq")


def adam_update_torch(
    table: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    schedule: Tensor,
    columns: int,
    scalars: dict[str, float],
) -> None:
    """The definition of one Adam step on the first `columns` columns of a table [rows, 60], in place.

    Kingma & Ba 2015 in the arrangement of torch.optim.Adam. `schedule` [61]: the columns' learning rates over
    1 - beta1^t, and the root of 1 - beta2^t, for step t.
    """
    g, m, v = (part[:, :columns] for part in (gradient, *moments))
    m.lerp_(g, scalars["one_minus_beta1"])
    v.mul_(scalars["beta2"]).addcmul_(g, g, value=scalars["one_minus_beta2"])
    denominator = (v.sqrt() / schedule[WIDTH]).add_(scalars["eps"])
    table.detach()[:, :columns].sub_(schedule[:columns] * m / denominator)


def _zeros_like(table: Tensor) -> Tensor:
    return torch.zeros_like(table, requires_grad=False)


def _select_moments(moments: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
    return moments[rows].masked_fill_(fresh[:, None], 0)
