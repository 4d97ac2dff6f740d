"""Records of a pickle to arrays, tensors and plain containers; sizes are checked before memory is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from utils import pickle_records as records
from utils.pickle_records import DamagedFileError, Foreign, Function, Limits, Record, TorchStorage, kind_of, shown

MAX_AXES = 32


class Values:
    """Builds the values of one file. A part that is referred to many times is built once and shared."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._built: dict[int, tuple[Any, Any, int]] = {}  # id -> the record (kept alive), its value, its elements
        self._stored = 0
        self._depth = 0

    def finish(self, value: Any, where: str) -> Any:
        """A value as ndarrays, tensors and plain containers; `where` names file and key in errors.

        Raises UnsafePickleError for an object that reading data does not need, DamagedFileError when a record is
        inconsistent, stands for no data, or would take far more memory than the file.
        """
        return self._finish(value, where)[0]

    def _finish(self, value: Any, where: str) -> tuple[Any, int]:
        """The value, and how many elements it seems to hold when everything shared is counted each time."""
        if value is None or isinstance(value, (bool, int, float)):
            return value, 1
        if isinstance(value, (str, bytes)):
            return value, 1 + len(value) // 64
        if isinstance(value, memoryview):
            self.limits.take_bytes(len(value))
            return bytes(value), 1 + len(value) // 64
        known = self._built.get(id(value))
        if known is not None:
            return known[1:]
        self._depth += 1
        if self._depth > records.MAX_DEPTH:
            raise DamagedFileError(f"{where}: nested too deeply, or contains itself")
        built, elements = self._build(value, where)
        self._depth -= 1
        self._built[id(value)] = value, built, elements
        return built, elements

    def _build(self, value: Any, where: str) -> tuple[Any, int]:
        self._stored += 1
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            return self._container(value, where)
        if isinstance(value, Foreign):
            raise records.UnsafePickleError(
                f"{where}: refused the global {value.name}, which reading data does not need")
        builder = _BUILDERS.get(type(value))
        if builder is None:
            if isinstance(value, (Record, type, TorchStorage, Function)):
                raise DamagedFileError(f"{where}: {kind_of(value)} cannot be read as data")
            return value, 1
        try:
            built = builder(self, value, where)
        except (records.UnsafePickleError, DamagedFileError) as error:
            raise error if where in str(error) else type(error)(f"{where}: {error}") from None
        except Exception as error:  # a contradictory record can fail in any way: missing keys, wrong types, short lists
            raise DamagedFileError(f"{where}: inconsistent {kind_of(value)} ({type(error).__name__}: "
                                   f"{str(error)[:200]})") from error
        size = int(built.numel()) if isinstance(built, torch.Tensor) else getattr(built, "size", 1)
        self._stored += size
        return built, size + 1

    def _container(self, value: Any, where: str) -> tuple[Any, int]:
        if isinstance(value, dict):
            keys = [self._finish(key, where) for key in value]
            parts = [self._finish(part, f"{where}: {key[:60]}" if isinstance(key, str) else where)
                     for key, part in value.items()]
            built: Any = {key: part for (key, _), (part, _) in zip(keys, parts, strict=True)}
        else:
            keys, parts = [], [self._finish(part, where) for part in value]
            built = type(value)(part for part, _ in parts)
        self._stored += len(parts)
        elements = 1 + sum(count for _, count in (*keys, *parts))
        if elements > records.MAX_SHARED + records.MAX_GROWTH * self._stored:
            raise DamagedFileError(f"{where}: parts are referred to so often that {shown(elements)} elements would "
                                   f"come of {self._stored}")
        return built, elements

    def values(self, data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> NDArray[Any]:
        """An array of bytes of the pickle; Python 2 strings arrive as latin1 text."""
        shape = _sizes(self.finish(shape, "shape"))
        count = math.prod(shape)
        wanted = count * dtype.itemsize
        if not isinstance(data, (str, bytes, memoryview)):
            raise ValueError(f"{shown(data)} in place of bytes")
        if len(data) != wanted or (count and not dtype.itemsize):
            raise ValueError(f"{len(data)} bytes for {shape} of {dtype}, wanted {wanted}")
        if order not in ("C", "F"):
            raise ValueError(f"order {shown(order)}")
        self.limits.take_bytes(wanted)
        raw = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(raw, dtype).copy() if wanted else np.zeros(count, dtype)
        return flat.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order=order)

    def numbers(self, value: Any, where: str) -> NDArray[Any]:
        """An array, or nested lists of numbers as one."""
        built = self.finish(value, where)
        if not isinstance(built, np.ndarray) and not _only_numbers(built):
            raise ValueError(f"{shown(built)} in place of numbers")
        return np.asarray(built)


def _sizes(shape: Any) -> tuple[int, ...]:
    """A shape or strides: a short tuple of whole numbers of which none is negative."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_AXES:
        raise ValueError(f"{shown(shape)} in place of a shape")
    if not all(isinstance(size, (int, np.integer)) for size in shape):
        raise TypeError("a shape that is not of whole numbers")
    if not all(0 <= size < 1 << 62 for size in shape):
        raise ValueError("a negative or enormous size")
    return tuple(int(size) for size in shape)


def _only_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_only_numbers, value))
    return isinstance(value, (bool, int, float, np.number, np.bool_, np.ndarray))


def _dtype(record: Any) -> np.dtype[Any]:
    if not isinstance(record, records.Dtype):
        raise ValueError(f"{shown(record)} in place of a dtype")
    code = record.args[0]
    if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,9}", code):
        raise ValueError(f"dtype {shown(code)} is not numeric or text")
    order: Any = record.state[1] if record.state else "|"
    if order not in ("|", "<", ">", "="):
        raise ValueError(f"byte order {shown(order)}")
    return np.dtype(code) if order == "|" else np.dtype(code).newbyteorder(order)


def _array(values: Values, record: Record, where: str) -> NDArray[Any]:
    shape, dtype, fortran, data = record.state[-4:]
    return values.values(data, _dtype(dtype), shape, "F" if fortran is True or fortran == 1 else "C")


def _frombuffer(values: Values, record: Record, where: str) -> NDArray[Any]:
    data, dtype, shape, order = record.args[:4]
    return values.values(data, _dtype(dtype), shape, order)


def _scalar(values: Values, record: Record, where: str) -> Any:
    dtype, data = record.args
    return values.values(data, _dtype(dtype), (), "C")[()]


def _chumpy(values: Values, record: Record, where: str) -> NDArray[Any]:
    return values.numbers(record.state["x"], where)


def _select(values: Values, record: Record, where: str) -> NDArray[Any]:
    source = values.numbers(record.state["a"], where)
    chosen = values.numbers(record.state["idxs"], where)
    values.limits.take_bytes(chosen.size * source.dtype.itemsize)
    found = source.ravel()[chosen]
    shape = record.state.get("preferred_shape")
    return found if shape is None else found.reshape(_sizes(values.finish(shape, where)))


def _dense(values: Values, record: Record, where: str) -> NDArray[Any]:
    """Sparse to dense; repeated entries add up, as in SciPy."""
    state = {name: values.finish(part, where) for name, part in record.state.items()
             if name in ("_shape", "shape", "data", "indices", "indptr", "row", "col", "coords")}
    rows, columns = _sizes(state["_shape"] if "_shape" in state else state["shape"])
    data = _vector(state["data"])
    if isinstance(record, records.SparseTriples):
        row, column = map(_indices, state["coords"] if "coords" in state else (state["row"], state["col"]))
    else:
        by_column = isinstance(record, records.SparseColumns)
        outer, inner = _outer(_indices(state["indptr"]), columns if by_column else rows, len(data)), state["indices"]
        row, column = (_indices(inner), outer) if by_column else (outer, _indices(inner))
    fits = len(row) == len(column) == len(data) and (
        not len(data) or (0 <= row.min() <= row.max() < rows and 0 <= column.min() <= column.max() < columns))
    if not fits:
        raise ValueError("indices do not fit the data")
    values.limits.take_bytes(rows * columns * data.dtype.itemsize)
    dense = np.zeros((rows, columns), data.dtype)
    np.add.at(dense, (row, column), data)
    return dense


def _vector(array: Any) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "biufc":
        raise ValueError("wanted arrays of one axis")
    return array


def _indices(array: Any) -> NDArray[Any]:
    if _vector(array).dtype.kind not in "iu":
        raise ValueError(f"indices of {array.dtype}")
    return _vector(array)


def _outer(pointer: NDArray[Any], count: int, entries: int) -> NDArray[Any]:
    """The column of each entry of a compressed matrix of `count` columns (or rows), from where each column starts."""
    starts = pointer.astype(np.int64)
    steps = starts[1:] - starts[:-1]
    if len(pointer) != count + 1 or pointer[0] != 0 or (steps < 0).any() or pointer[-1] != entries:
        raise ValueError(f"indptr: wanted {count + 1} numbers rising from 0 to {entries}")
    return np.repeat(np.arange(count), steps)


def _tensor(values: Values, record: Record, where: str) -> torch.Tensor:
    storage, offset, size, stride = record.args[:4]
    if not isinstance(storage, TorchStorage):
        raise ValueError(f"{shown(storage)} in place of a storage")
    sizes, strides = (_sizes(values.finish(part, where)) for part in (size, stride))
    if len(sizes) != len(strides) or not isinstance(offset, int) or not 0 <= offset < 1 << 62:
        raise ValueError(f"offset {shown(offset)}, size {sizes}, stride {strides}")
    width, count = storage.dtype.itemsize, math.prod(sizes)
    if count == 0:
        return torch.zeros(sizes, dtype=storage.dtype)
    end = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    if end > storage.count:
        raise ValueError(f"elements up to {end} of a storage of {storage.count}")
    values.limits.take_bytes((end - offset + count) * width)
    raw = bytearray(memoryview(storage.data)[offset * width:end * width])
    if storage.dtype == torch.bool:  # any byte but 0 and 1 would be neither true nor false
        return torch.frombuffer(raw, dtype=torch.uint8).as_strided(sizes, strides) != 0
    flat = torch.frombuffer(raw, dtype=storage.dtype)
    return flat.as_strided(sizes, strides).clone(memory_format=torch.contiguous_format)


def _parameter(values: Values, record: Record, where: str) -> torch.Tensor:
    tensor = values.finish(record.args[0], where)
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{shown(tensor)} in place of a tensor")
    return tensor


def _device(values: Values, record: Record, where: str) -> str:
    if len(record.args) > 2 or not all(isinstance(part, (str, int)) for part in record.args):
        raise ValueError("not a device")
    return ":".join(shown(part).strip("'") for part in record.args)


_BUILDERS: dict[type, Callable[[Values, Any, str], Any]] = {
    records.Ndarray: _array,
    records.Frombuffer: _frombuffer,
    records.Scalar: _scalar,
    records.ChumpyArray: _chumpy,
    records.ChumpySelect: _select,
    records.SparseColumns: _dense,
    records.SparseRows: _dense,
    records.SparseTriples: _dense,
    records.TorchTensor: _tensor,
    records.TorchParameter: _parameter,
    records.TorchDevice: _device,
    records.TorchSize: lambda values, record, where: _sizes(values.finish(record.args[0], where)),
}
