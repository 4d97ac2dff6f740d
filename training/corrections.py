"""Tables of small corrections, each row with an Adam of its own that steps when the row is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

USUAL_VISITS, MOST_HASTE = 80.0, 4.0  # a row that is drawn less often takes longer steps, up to this factor
LAST_RATE = 0.1  # of the learning rates, at the last visit
BETAS, EPS = (0.9, 0.99), 1e-15  # a row is drawn some tens of times: the second moment must settle sooner
STATE = ("values", "exp_avg", "exp_avg_sq", "visits")


class CorrectionTable:
    """Corrections [T,W] with the state of their Adam, on the device of `rates`.

    rates [W]: learning rates in the unit of each column, of rows that are drawn `USUAL_VISITS` times or more. visits:
    how many times each row will be drawn, for the schedule of the rates. learnt: int64 numbers of the rows whose mean
    is kept at zero; None: no row is tied to another.
    """

    def __init__(self, count: int, rates: Tensor, visits: float, learnt: Tensor | None) -> None:
        device, shape = rates.device, (count, len(rates))
        self.rates = min(max(USUAL_VISITS / visits, 1.0), MOST_HASTE) * rates
        self.expected_visits = visits
        self.values, self.exp_avg, self.exp_avg_sq = (torch.zeros(shape, device=device) for _ in range(3))
        self.visits = torch.zeros(count, 1, device=device)
        self.learnt: Tensor | None = None
        if learnt is not None:
            self.learnt = torch.zeros(count, 1, device=device).index_fill_(0, learnt.to(device), 1.0)

    @torch.no_grad()
    def update(self, rows: Tensor, gradient: Tensor) -> None:
        """One Adam step of rows [B] by their gradient [B,W]; other rows and their moments stay.

        A row that a batch holds twice gets the sum of its gradients. No shape depends on numbers, and nothing waits
        for the device, so that a step can be captured.
        """
        drawn = torch.zeros_like(self.visits).index_fill_(0, rows, 1.0)
        full = torch.zeros_like(self.values).index_add_(0, rows, gradient)
        self.visits += drawn
        self.exp_avg.lerp_(full, drawn * (1 - BETAS[0]))
        self.exp_avg_sq.lerp_(full * full, drawn * (1 - BETAS[1]))
        visits = self.visits.clamp_min(1)
        size = (self.exp_avg_sq / (1 - BETAS[1] ** visits)).sqrt() + EPS
        rate = self.rates * LAST_RATE ** (self.visits / self.expected_visits)
        self.values -= drawn * rate * (self.exp_avg / (1 - BETAS[0] ** visits)) / size
        if self.learnt is not None:
            self.values -= self.learnt * ((self.values * self.learnt).sum(dim=0) / self.learnt.sum())

    def load_values(self, values: Tensor) -> None:
        """Take over corrections [T,W] alone. ValueError when they are not for these rows and columns."""
        if values.shape != self.values.shape:
            raise ValueError(f"corrections: wanted {list(self.values.shape)} (frames, columns), got "
                             f"{list(values.shape)}; is this the data set of the run?")
        self.values.copy_(values)

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Corrections and the state of their Adam, not copies."""
        return {prefix + name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Tensor], prefix: str = "") -> None:
        """Take over what `state_dict` gave. ValueError naming the entry that is missing or does not fit."""
        for name, mine in self.state_dict(prefix).items():
            got = list(state[name].shape) if name in state else "nothing"
            if got != list(mine.shape):
                raise ValueError(f"refinement.{name}: wanted {list(mine.shape)} (frames, columns), got {got}")
        for name, mine in self.state_dict(prefix).items():
            mine.copy_(state[name])
