"""Fitting code lengths: trackers write FLAME's 300 identity and 100 expression numbers whatever the head has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fit_code(code: NDArray[Any], length: int, name: str, where: str) -> NDArray[Any]:
    """Zero-pad or cut the last axis of `code` [..., n] to `length`, keeping its dtype; a copy only where needed.

    name, where: what the code is ("shape") and the file or frame it came from, for the error. Cutting is allowed only
    where nothing is lost: raises ValueError when a coefficient beyond `length` is not zero, which means that the data
    was tracked with a larger head model.
    """
    if code.ndim == 0:
        raise ValueError(f"{where}: {name} is a single number, wanted a row of coefficients")
    got = code.shape[-1]
    if got == length:
        return code
    if got < length:
        return np.concatenate([code, np.zeros((*code.shape[:-1], length - got), code.dtype)], axis=-1)
    lost = np.argwhere(code[..., length:] != 0)
    if len(lost):
        at = tuple(lost[0])
        index = length + int(at[-1])
        value = code[..., length:][at]
        raise ValueError(
            f"{where}: {name} coefficient {index} is {value:g}, but the head model has only {length} of them "
            "(indices from 0); load the head model that the data was tracked with"
        )
    return code[..., :length]
