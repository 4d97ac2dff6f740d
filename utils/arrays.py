"""Reading .npy and .npz files: plain arrays only, their sizes checked against the file before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.atomic import write_with
from utils.file_kinds import check_members, what_else

Array = NDArray[Any]


def read_npy(path: Path) -> Array:
    """The array of a .npy file. Raises OSError, and ValueError naming the file when it is not one or damaged."""
    try:
        return _array(path.read_bytes())
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a plain array of numbers or text ({error!s:.200}){what_else(path)}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of a .npz file, by name. Raises OSError, and ValueError naming the file when it is not one or damaged.

    A small file that would become large, object arrays, and members that are no arrays are refused.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive, path.stat().st_size)
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except Exception as error:  # zipfile reports damage in many ways: BadZipFile, zlib.error, NotImplementedError, ...
        hint = "" if zipfile.is_zipfile(path) else what_else(path)
        raise ValueError(f"{path}: cannot be read as .npz ({type(error).__name__}: {error!s:.200}){hint}") from error


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name as .npz, atomically. Raises utils.atomic.WriteError."""
    write_with(path, lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]


def _array(data: bytes) -> Array:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format is not supported")
    shape, fortran, dtype = read(stream)
    count: int = math.prod(int(size) for size in shape)
    if dtype.kind not in "biufcSU" or (dtype.itemsize == 0 and count):
        raise ValueError(f"elements of type {dtype!s:.60}, wanted numbers or text")
    begin, wanted = stream.tell(), count * dtype.itemsize
    if len(shape) > 32 or min(shape, default=0) < 0 or len(data) - begin != wanted:
        raise ValueError(f"{len(data) - begin} bytes of data, wanted {wanted!s:.20}")
    flat = np.frombuffer(data, dtype, offset=begin).copy() if wanted else np.zeros(count, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
