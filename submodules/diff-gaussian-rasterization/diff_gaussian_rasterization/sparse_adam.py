"""Adam that leaves the rows of unseen Gaussians alone, under the name that 3D Gaussian splatting code looks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class SparseGaussianAdam(torch.optim.Adam):
    """`torch.optim.Adam` on tensors of one row a Gaussian, which updates the rows (moments included) of some.

    Bias is corrected by the number of steps of the tensor, so with all rows visible it is `torch.optim.Adam`.
    """

    def __init__(self, params: Iterable[Any], lr: float, eps: float) -> None:
        super().__init__(params, lr=lr, eps=eps)

    @torch.no_grad()
    def step(self, visibility: Tensor, N: int) -> None:  # type: ignore[override]
        """Update the rows that `visibility` [N] bool marks. ValueError where a tensor has other than N rows."""
        if visibility.dtype != torch.bool or visibility.shape != (N,):
            raise ValueError(f"visibility: wanted bool [{N}], got {visibility.dtype} {list(visibility.shape)}")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, visibility)

    def _update(self, parameter: Tensor, group: dict[str, Any], visibility: Tensor) -> None:
        if len(parameter) != len(visibility):
            raise ValueError(f"parameter {group.get('name', '')}: wanted {len(visibility)} rows, got {len(parameter)}")
        state, gradient, (beta1, beta2) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        for name in ("exp_avg", "exp_avg_sq"):
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        state["step"] = state.get("step", torch.zeros((), dtype=torch.float32)) + 1
        seen = visibility.view(-1, *[1] * (parameter.ndim - 1))
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.copy_(torch.where(seen, beta1 * mean + (1 - beta1) * gradient, mean))
        square.copy_(torch.where(seen, beta2 * square + (1 - beta2) * gradient * gradient, square))
        count = float(state["step"])
        root = square.sqrt() / (1 - beta2**count) ** 0.5 + group["eps"]
        parameter.sub_(torch.where(seen, group["lr"] / (1 - beta1**count) * mean / root, 0))
