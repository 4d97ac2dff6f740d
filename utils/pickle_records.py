"""Stand-ins for the classes that pickled data names, and the arrays and tensors built from them.

A stand-in only records what the pickle hands it. Its metaclass refuses changes from within a pickle (the BUILD opcode
can call setattr on any object it finds, classes included), so one file cannot affect the reading of the next. Values
are built after unpickling, from the records, with every length checked. See `utils.safe_pickle`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class UnsafePickleError(ValueError):
    """A pickle asks for something that reading data does not need. Nothing of it was executed."""


class DamagedFileError(ValueError):
    """A file is truncated, is not of the expected kind, or contradicts itself."""


class _Sealed(type):
    def __setattr__(cls, name: str, value: object) -> None:
        raise UnsafePickleError(f"the pickle tries to change {cls.__name__}")


class Record(metaclass=_Sealed):
    """Constructor arguments and state as the pickle gave them."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class NdarrayType(Record):
    """numpy.ndarray as an argument of _reconstruct."""


class Ndarray(Record):
    """numpy's _reconstruct; state (version, shape, dtype, is_fortran, bytes)."""


class Frombuffer(Record):
    """numpy's _frombuffer, protocol 5: (bytes, dtype, shape, order)."""


class Scalar(Record):
    """numpy's scalar: (dtype, bytes)."""


class Dtype(Record):
    """numpy.dtype: (code, align, copy); state (version, byte order, ...)."""


class ChumpyArray(Record):
    """chumpy.ch.Ch: a dict state with the values under 'x'."""


class ChumpySelect(Record):
    """chumpy.reordering.Select: entries 'idxs' of the flattened 'a', in 'preferred_shape'."""


class ChumpyOther(Record):
    """Any other chumpy expression: recorded, refused only when its key is read."""


class SparseColumns(Record):
    """scipy.sparse CSC: a dict state with shape, data, indices, indptr."""


class SparseRows(Record):
    """scipy.sparse CSR: as CSC with rows and columns exchanged."""


class SparseTriples(Record):
    """scipy.sparse COO: a dict state with shape, data, row, col (or coords)."""


class TorchTensor(Record):
    """torch._utils._rebuild_tensor_v2: (storage, offset, size, stride, ...)."""


class TorchBytes(Record):
    """torch.storage._load_from_bytes: a storage in a plain pickle, as the bytes of a legacy file."""


class TorchParameter(Record):
    """torch._utils._rebuild_parameter: (tensor, requires_grad, hooks)."""


class TorchDevice(Record):
    """torch.device; read back as its name, since everything is read to the CPU."""


class TorchSize(Record):
    """torch.Size, read back as a tuple."""


class TorchStorage:
    """Raw bytes of a torch storage and their element type. No pickle can name it."""

    def __init__(self, data: bytearray, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype


class Encoded(metaclass=_Sealed):
    """_codecs.encode, with which Python 3 writes bytes below protocol 3."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"refused _codecs.encode with {encoding!r}")
        return text.encode("latin1")


class NoBytes(metaclass=_Sealed):
    """bytes(), with which Python 3 writes empty bytes below protocol 3."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


class Reconstructor(metaclass=_Sealed):
    """copyreg._reconstructor(cls, object, None), with which protocols 0 and 1 create instances."""

    def __new__(cls, kind: Any, *_: Any) -> Record:  # type: ignore[misc]
        if not (isinstance(kind, type) and issubclass(kind, Record)):
            raise UnsafePickleError(f"refused copyreg._reconstructor of {kind!r}")
        return kind()


class Object(metaclass=_Sealed):
    """builtins.object, as the base given to copyreg._reconstructor."""


class SetOf(metaclass=_Sealed):
    """set(list)."""

    def __new__(cls, items: Any = ()) -> set[Any]:  # type: ignore[misc]
        return set(items)


class OrderedDict(dict[Any, Any], metaclass=_Sealed):
    """collections.OrderedDict; extra attributes, such as torch's _metadata, are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def finish(value: Any, where: str) -> Any:
    """Records -> ndarrays, tensors and plain containers, recursively; `where` names file and key in errors.

    Raises DamagedFileError when a record is inconsistent or stands for no data.
    """
    if isinstance(value, dict):
        return {finish(k, where): finish(v, f"{where}: {k}" if isinstance(k, str) else where) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(finish(item, where) for item in value)
    builder = _BUILDERS.get(type(value))
    if builder is None:
        if isinstance(value, (Record, type, TorchStorage)):
            raise DamagedFileError(f"{where}: {kind_of(value)} cannot be read as data")
        return value
    try:
        return builder(value, where)
    except (UnsafePickleError, DamagedFileError, RecursionError):
        raise
    except Exception as error:  # a contradictory record can fail in any way: missing keys, wrong types, short lists
        raise DamagedFileError(f"{where}: inconsistent {kind_of(value)} ({type(error).__name__}: {error})") from error


def kind_of(value: Any) -> str:
    """A word for error messages: the type's name, or the stand-in's own name."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _dtype(record: Any) -> np.dtype[Any]:
    if not isinstance(record, Dtype):
        raise ValueError(f"{kind_of(record)} in place of a dtype")
    code = record.args[0]
    if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d+", code):
        raise ValueError(f"dtype {code!r} is not numeric or text")
    order: Any = record.state[1] if record.state else "|"
    return np.dtype(code) if order == "|" else np.dtype(code).newbyteorder(order)


def _raw(data: Any) -> bytes:
    """The bytes of an array; Python 2 strings arrive as latin1 text."""
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _values(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    raw = _raw(data)
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(raw) != wanted:
        raise ValueError(f"{len(raw)} bytes for {shape} of {dtype}, wanted {wanted}")
    flat = np.frombuffer(raw, dtype).copy() if wanted else np.zeros(math.prod(shape), dtype)
    return flat.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order=order)


def _array(record: Ndarray, where: str) -> NDArray[Any]:
    shape, dtype, fortran, data = record.state[-4:]
    return _values(data, _dtype(dtype), tuple(shape), "F" if fortran else "C")


def _frombuffer(record: Frombuffer, where: str) -> NDArray[Any]:
    data, dtype, shape, order = record.args[:4]
    return _values(data, _dtype(dtype), tuple(shape), order)


def _scalar(record: Scalar, where: str) -> Any:
    dtype, data = record.args
    return _values(data, _dtype(dtype), (), "C")[()]


def _chumpy(record: ChumpyArray, where: str) -> NDArray[Any]:
    return np.asarray(finish(record.state["x"], where))


def _select(record: ChumpySelect, where: str) -> NDArray[Any]:
    source = np.asarray(finish(record.state["a"], where))
    chosen = source.ravel()[np.asarray(finish(record.state["idxs"], where))]
    shape = finish(record.state.get("preferred_shape"), where)
    return chosen if shape is None else chosen.reshape(shape)


def _dense(record: Record, where: str) -> NDArray[Any]:
    """Sparse to dense; repeated entries add up, as in SciPy."""
    state = finish(record.state, where)
    rows, columns = state["_shape"] if "_shape" in state else state["shape"]
    if isinstance(record, SparseTriples):
        row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
    else:
        outer = np.repeat(np.arange(len(state["indptr"]) - 1), np.diff(state["indptr"]))
        row, column = (state["indices"], outer) if isinstance(record, SparseColumns) else (outer, state["indices"])
    if len(row) != len(state["data"]) or min(row.min(initial=0), column.min(initial=0)) < 0:
        raise ValueError("indices do not fit the data")
    dense = np.zeros((rows, columns), state["data"].dtype)
    np.add.at(dense, (row, column), state["data"])
    return dense


def _tensor(record: TorchTensor, where: str) -> torch.Tensor:
    storage, offset, size, stride = record.args[:4]
    if not isinstance(storage, TorchStorage):
        raise ValueError(f"{kind_of(storage)} in place of a storage")
    if not storage.data:
        return torch.zeros(finish(size, where), dtype=storage.dtype)
    # as_strided checks size, stride and offset against the storage's length
    flat = torch.frombuffer(storage.data, dtype=storage.dtype)
    return flat.as_strided(finish(size, where), finish(stride, where), offset).clone()


_BUILDERS: dict[type, Callable[[Any, str], Any]] = {
    Ndarray: _array,
    Frombuffer: _frombuffer,
    Scalar: _scalar,
    ChumpyArray: _chumpy,
    ChumpySelect: _select,
    SparseColumns: _dense,
    SparseRows: _dense,
    SparseTriples: _dense,
    TorchTensor: _tensor,
    TorchParameter: lambda record, where: finish(record.args[0], where),
    TorchDevice: lambda record, where: ":".join(map(str, record.args)),
    TorchSize: lambda record, where: tuple(record.args[0]),
}
