"""Adam over what an avatar learns besides its packed tables, next to `FactoredAdam`, which steps those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from arguments import OptimizationSettings
from scene.avatar import Avatar
from scene.extensions import parameter_rates

BETAS, EPS = (0.9, 0.999), 1e-15  # those of FactoredAdam
_STATE = ("step", "exp_avg", "exp_avg_sq")


class ExtraOptimizer:
    """torch.optim.Adam with the learning rate of each attribute and network (`scene/extensions.py`).

    Its state is made here, so that a checkpoint knows its names and a captured step finds it at fixed places.
    """

    def __init__(self, avatar: Avatar, settings: OptimizationSettings) -> None:
        self.parameters, self._rates = avatar.extra_parameters(), parameter_rates(avatar, settings)
        self._adam: torch.optim.Adam | None = None
        if not self.parameters:
            return
        on_gpu = avatar.neutral.is_cuda
        groups = [{"params": [tensor], "lr": self._rates[name]} for name, tensor in self.parameters.items()]
        self._adam = torch.optim.Adam(groups, betas=BETAS, eps=EPS, capturable=on_gpu)
        for tensor in self.parameters.values():
            # A step counter on the device is what a graph can count.
            step = torch.zeros((), device=tensor.device if on_gpu else "cpu")
            self._adam.state[tensor] = dict(zip(_STATE, (step, *(torch.zeros_like(tensor.detach()) for _ in range(2))),
                                                strict=True))

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One update, by a gradient for each of `parameters`; None: the loss does not depend on it, it stays."""
        if self._adam is None:
            return
        for tensor, gradient in zip(self.parameters.values(), gradients, strict=True):
            tensor.grad = gradient
        self._adam.step()
        self._adam.zero_grad()

    def select_rows(self, index: Tensor, fresh: Tensor, avatar: Avatar) -> None:
        """Step the attributes of `avatar` from now on; their row i comes from row `index[i]` of the present ones.

        Rows that are `fresh` [N'] bool start with moments of zero; networks keep theirs.
        """
        if self._adam is None:
            return
        old, self.parameters = self.parameters, avatar.extra_parameters()
        for group, (name, tensor) in zip(self._adam.param_groups, self.parameters.items(), strict=True):
            group["params"] = [tensor]
            state = self._adam.state.pop(old[name])
            if name.startswith("attributes."):
                for moment in _STATE[1:]:
                    state[moment] = state[moment][index].masked_fill_(fresh[:, None], 0)
            self._adam.state[tensor] = state

    def state_dict(self) -> dict[str, Tensor]:
        """Step counters and moments by "parameter.entry", not copies."""
        if self._adam is None:
            return {}
        return {f"{name}.{entry}": self._adam.state[tensor][entry]
                for name, tensor in self.parameters.items() for entry in _STATE}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. ValueError naming the entry that is missing or does not fit."""
        mine = self.state_dict()
        for name, tensor in mine.items():
            got = list(state[name].shape) if name in state else "nothing"
            if got != list(tensor.shape):
                raise ValueError(f"{name}: wanted {list(tensor.shape)}, got {got}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])
