"""Tables of numbers as bytes that compress well: columns of whole numbers, the low bytes of one column together.

A table is a list of columns, each rounded to multiples of its step. A column's numbers, or their differences from row
to row, go zigzag (0, -1, 1, -2, ... as 0, 1, 2, 3, ...) into as many bytes as the largest of them needs. Tables of one
section lie one after another and are compressed together (zlib), which any browser undoes with DecompressionStream.
web/src/core/coding.js is the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Whole = NDArray[np.int64]

DEAD = 0.4
"""What is added before rounding down: below 0.5, so that small numbers become 0, which costs next to nothing."""


def quantized(values: Floats, step: Floats | float, dead: float = 0.5) -> Whole:
    """Multiples of `step` (broadcast against values), rounded to the nearest, or with `DEAD` rather to 0."""
    scaled = np.asarray(values, np.float64) / step
    return (np.sign(scaled) * np.floor(np.abs(scaled) + dead)).astype(np.int64)


@dataclass
class Section:
    """Tables that travel together. specs: what the decoder must know, in order; data: their bytes, one after another.
    """

    specs: list[dict[str, Any]] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)

    def add_whole(self, name: str, numbers: Whole, delta: bool = False) -> None:
        """A table of whole numbers below 2^31 in size: [rows] or [rows, columns]."""
        self._add({"name": name, "kind": "whole"}, numbers, delta)

    def add_steps(self, name: str, numbers: Whole, steps: Floats, delta: bool = False) -> None:
        """A table of floats: numbers [rows, columns] times steps [columns]."""
        self._add({"name": name, "kind": "steps", "steps": [float(step) for step in steps]}, numbers, delta)

    def add_single(self, name: str, values: Floats) -> None:
        """A table of single-precision numbers as they are."""
        flat = np.ascontiguousarray(values, "<f4").reshape(-1)
        self.specs.append({"name": name, "kind": "single", "rows": len(flat), "planes": [4]})
        self.data.append(np.ascontiguousarray(flat.view(np.uint8).reshape(-1, 4).T).tobytes())

    def _add(self, spec: dict[str, Any], numbers: Whole, delta: bool) -> None:
        table = numbers[:, None] if numbers.ndim == 1 else numbers
        if delta:
            table = np.diff(table, axis=0, prepend=0)
        coded = np.where(table < 0, -2 * table - 1, 2 * table).astype("<u8")
        planes = [max(1, (int(column.max(initial=0)).bit_length() + 7) // 8) for column in coded.T]
        self.specs.append({**spec, "rows": len(table), "planes": planes, "delta": delta})
        for column, count in zip(coded.T, planes, strict=True):
            self.data.append(np.ascontiguousarray(_by_plane(column)[:count]).tobytes())


def _by_plane(column: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """[8, rows]: the bytes of each number, lowest first."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1, 8).T
