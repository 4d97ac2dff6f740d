"""Smoothing: the One Euro filter for live curves, Savitzky-Golay for recorded ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import savgol_filter
from torch import Tensor

from reenactment.curves import Curves

FloatArray = NDArray[np.float64]


class OneEuro:
    """The One Euro filter (Casiez, Roussel, Vogel 2012) on a vector: a low-pass whose cutoff rises with speed.

    cutoff: Hz at rest; lower is steadier and lags more (about 1 / (2 pi cutoff) seconds). speed: how much the cutoff
    rises, Hz per unit a second; higher lags less while moving. ValueError unless both are positive (speed: or 0).
    """

    SPEED_CUTOFF = 1.0  # Hz, of the speed itself, as in the paper

    def __init__(self, cutoff: float, speed: float) -> None:
        if not (cutoff > 0 and speed >= 0):
            raise ValueError(f"One Euro filter: wanted a cutoff above 0 Hz and a speed of 0 or more, got {cutoff} and "
                             f"{speed}")
        self._cutoff, self._speed = cutoff, speed
        self._time = 0.0
        self._value: FloatArray | None = None
        self._slope: FloatArray | None = None

    def __call__(self, value: FloatArray, time: float) -> FloatArray:
        """The filtered value at `time` (seconds; a time that is not later than the last gives the last value)."""
        if self._value is None or self._slope is None:
            self._time, self._value, self._slope = time, value.astype(np.float64), np.zeros(value.shape)
            return self._value
        step = time - self._time
        if step <= 0:
            return self._value
        slope = (value - self._value) / step
        self._slope = self._slope + _share(self.SPEED_CUTOFF, step) * (slope - self._slope)
        cutoff = self._cutoff + self._speed * np.abs(self._slope)
        self._value = self._value + _share(cutoff, step) * (value - self._value)
        self._time = time
        return self._value


def smoothed(curves: Curves, window: int) -> Curves:
    """Savitzky-Golay over `window` frames (odd, 0: off): keeps peaks that a mean would flatten. Lids stay sharp.

    ValueError for a window that is even or below 5.
    """
    check_window(window)
    if window == 0 or len(curves) < window:
        return curves
    return Curves(smoothed_columns(curves.expression, window), smoothed_columns(curves.jaw, window),
                  smoothed_columns(curves.gaze, window), curves.lids,
                  None if curves.neck is None else smoothed_columns(curves.neck, window))


def smoothed_columns(values: Tensor, window: int) -> Tensor:
    """Savitzky-Golay of order 2 along the first axis; as they are where there are fewer frames than the window."""
    if window == 0 or len(values) < window:
        return values
    return torch.from_numpy(savgol_filter(values.numpy(), window, 2, axis=0)).to(values.dtype)


def check_window(window: int) -> None:
    """ValueError unless `window` is 0 or an odd number from 5 on."""
    if window and (window < 5 or window % 2 == 0):
        raise ValueError(f"--smooth: wanted 0 (off) or an odd number of frames from 5 on, got {window}")


def _share(cutoff: FloatArray | float, step: float) -> FloatArray | float:
    """How far a first-order low-pass moves towards its input in `step` seconds."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))
