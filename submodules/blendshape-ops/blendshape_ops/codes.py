"""How far expression codes drive the differences: as far as training went, and all of them together."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native

# Code units; trackers are not more exact than this. Also in include/play.h and exporting/numpy_player.py.
CODE_SLACK = 0.1
_native.mirror("blendshape_ops", CODE_SLACK=CODE_SLACK)


def limit_codes(codes: Tensor, code_range: Tensor) -> Tensor:
    """Codes [B, K] limited to what training saw, `code_range` [2, K] (smallest, largest); differentiable.

    A frame one of whose codes lies far outside is an expression that training never saw, whatever its other codes say:
    differences learnt from smiles with closed lips do not fit a smile with the mouth wide open. So all codes of a frame
    are multiplied by the largest share, 1 at most, that leaves none more than `CODE_SLACK` outside; then each is
    clamped to its range. A code that training never moved (an empty range) has no say.
    """
    low, high = code_range
    reach = torch.where(codes > 0, high + CODE_SLACK, low - CODE_SLACK)
    # Smaller ones are not outside; a share of one next to 0 would be infinite, and its gradient no number.
    counts = (codes.abs() > CODE_SLACK) & (high > low)
    share = torch.where(counts, reach / torch.where(counts, codes, 1), 1)
    if codes.shape[1]:
        codes = codes * share.amin(dim=1, keepdim=True).clamp(max=1)
    return codes.clamp(low, high)
