"""How large a picture may be so that the page stays fluent: it learns from the time that pictures took."""

from __future__ import annotations

import math

LEAST_SIDE = 96  # pixels; below, the picture says nothing any more
START_SIDE = 256  # pixels, of the first moving picture


class Pace:
    """Chooses picture sizes: at rest up to `longest` pixels a side, while something moves so that one takes `budget`.

    budget: seconds a picture, from the start of drawing to its arrival in the browser.
    """

    def __init__(self, budget: float, longest: int) -> None:
        self.budget = budget
        self.longest = longest
        self._moving = min(START_SIDE, longest) ** 2  # pixels

    def size(self, width: int, height: int, moving: bool) -> tuple[int, int]:
        """Width and height to draw for a window of width x height, in its proportions. ValueError for no window."""
        if not (width >= 1 and height >= 1 and max(width, height) <= 64 * min(width, height)):
            raise ValueError(f"window: wanted a positive size of at most 64 to 1, got {width} x {height}")
        shrink = min(1.0, self.longest / max(width, height))
        if moving:
            # Steps of sqrt(2): a GPU captures its work anew for every size, and pictures that keep growing flicker.
            fitting = min(1.0, math.sqrt(self._moving / (width * height)) / shrink)
            shrink *= 2.0 ** (math.floor(2 * math.log2(fitting) + 1e-6) / 2)
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def record(self, seconds: float, pixels: int) -> None:
        """Learn from a picture drawn while something moved: half the way to the number that fits the budget."""
        fitting = pixels * min(max(self.budget / max(seconds, 1e-4), 0.25), 4.0)
        self._moving = round(min(max(math.sqrt(self._moving * fitting), LEAST_SIDE**2), self.longest**2))
