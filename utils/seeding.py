"""One seed for every generator of the process."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy (legacy generator) and torch (all devices).

    Our own code draws from generators of its own; this pins what libraries draw.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
