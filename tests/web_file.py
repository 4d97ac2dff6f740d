"""A reader of the browser's avatar file, written after docs/web.md and not after the JavaScript."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tables = dict[str, NDArray[Any]]


def read_section(specs: list[dict[str, Any]], data: bytes) -> Tables:
    """The inverse of `Section`, written after docs/web.md and not after the JavaScript."""
    tables, at = dict[str, NDArray[Any]](), 0
    for spec in specs:
        rows, columns = spec["rows"], []
        for planes in spec["planes"]:
            planed = np.frombuffer(data[at:at + rows * planes], np.uint8).reshape(planes, rows)
            columns.append(sum(plane.astype(np.uint64) << np.uint64(8 * i) for i, plane in enumerate(planed)))
            at += rows * planes
        if spec["kind"] == "single":
            tables[spec["name"]] = np.asarray(columns[0]).astype("<u4").view("<f4")
            continue
        coded = np.stack(columns, axis=1).astype(np.int64)
        numbers = np.where(coded % 2, -(coded + 1) // 2, coded // 2)
        numbers = numbers.cumsum(axis=0) if spec["delta"] else numbers
        tables[spec["name"]] = numbers * spec["steps"] if "steps" in spec else numbers
    assert at == len(data)
    return tables


def read_file(data: bytes) -> tuple[dict[str, Any], Tables]:
    """Facts and tables of a file."""
    assert data[:4] == b"GBAV"
    _, length = struct.unpack("<II", data[4:12])
    header, at, tables = json.loads(data[12:12 + length]), 12 + length, Tables()
    for section in header["sections"]:
        tables |= read_section(section["tables"], zlib.decompress(data[at:at + section["bytes"]]))
        at += section["bytes"]
    assert at == len(data)
    return header["meta"], tables
