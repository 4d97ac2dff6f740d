"""What a look at a data set says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Finding:
    """One sentence or more. wrong: this cannot be, training would be wasted; otherwise it is a doubt."""

    wrong: bool
    text: str


def and_others(frames: Sequence[int] | NDArray[np.int64]) -> str:
    """How a message goes on after the first of `frames`."""
    if len(frames) < 2:
        return ""
    shown = ", ".join(str(int(frame)) for frame in frames[1:5])
    return f" and {len(frames) - 1} more ({shown}{', ...' if len(frames) > 5 else ''})"
