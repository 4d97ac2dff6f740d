"""Adam over what an avatar learns besides its packed tables, next to `FactoredAdam`, which steps those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from arguments import OptimizationSettings
from scene.avatar import Avatar
from scene.extensions import parameter_rates

BETAS, EPS = (0.9, 0.999), 1e-15  # those of FactoredAdam
_STATE = ("step", "exp_avg", "exp_avg_sq")


class ExtraOptimizer:
    """Adam with the learning rate of each attribute and network (`scene/extensions.py`).

    By torch's function and not by its class, whose first use takes seconds to import a compiler. The state is made
    here, so that a checkpoint knows its names and a captured step finds it at fixed places.
    """

    def __init__(self, avatar: Avatar, settings: OptimizationSettings) -> None:
        self.parameters, self._rates = avatar.extra_parameters(), parameter_rates(avatar, settings)
        self.eps, self._on_gpu = EPS, avatar.neutral.is_cuda
        self._state: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.parameters.items():
            # A step counter on the device is what a graph can count.
            step = torch.zeros((), device=tensor.device if self._on_gpu else "cpu")
            moments = (torch.zeros_like(tensor.detach()) for _ in _STATE[1:])
            self._state[name] = dict(zip(_STATE, (step, *moments), strict=True))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One update, by a gradient for each of `parameters`; None: the loss does not depend on it, it stays."""
        for (name, tensor), gradient in zip(self.parameters.items(), gradients, strict=True):
            if gradient is not None:
                step, mean, square = self._state[name].values()
                adam([tensor], [gradient], [mean], [square], [], [step], capturable=self._on_gpu, amsgrad=False,
                     beta1=BETAS[0], beta2=BETAS[1], lr=self._rates[name], weight_decay=0.0, eps=self.eps,
                     maximize=False)

    def select_rows(self, index: Tensor, fresh: Tensor, avatar: Avatar) -> None:
        """Step the attributes of `avatar` from now on; their row i comes from row `index[i]` of the present ones.

        Rows that are `fresh` [N'] bool start with moments of zero; networks keep theirs.
        """
        self.parameters = avatar.extra_parameters()
        for name, state in self._state.items():
            if name.startswith("attributes."):
                for moment in _STATE[1:]:
                    state[moment] = state[moment][index].masked_fill_(fresh[:, None], 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Step counters and moments by "parameter.entry", not copies."""
        return {f"{name}.{entry}": value for name, state in self._state.items() for entry, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. ValueError naming the entry that is missing or does not fit."""
        mine = self.state_dict()
        for name, tensor in mine.items():
            got = list(state[name].shape) if name in state else "nothing"
            if got != list(tensor.shape):
                raise ValueError(f"{name}: wanted {list(tensor.shape)}, got {got}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])
