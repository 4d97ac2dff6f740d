"""What a look at a data set says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One sentence or more. wrong: this cannot be, training would be wasted; otherwise it is a doubt."""

    wrong: bool
    text: str
