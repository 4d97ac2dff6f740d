"""Stand-ins for the classes that pickled data names, and the limits within which a file is read.

A stand-in only records what the pickle hands it. `utils.pickle_machine` makes them, `utils.pickle_values` turns them
into arrays and tensors, with every length checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from utils.file_kinds import DamagedFileError

MAX_STEPS = 500_000
"""Opcodes and container entries that one file may take: a frame's record takes a few hundred, FLAME a few thousand."""

MAX_DEPTH = 64
"""Levels of containers inside one another; a tracker's record has three."""

MAX_GROWTH, ALLOWANCE = 4, 64 << 20
"""Values of one file may take this many times the file's size, and so many bytes besides."""

MAX_SHARED = 10_000_000
"""Elements that a value may seem to hold, because parts of it are referred to many times, beyond what was stored."""


class UnsafePickleError(ValueError):
    """A pickle asks for something that reading data does not need. Nothing of it was executed."""


@dataclass
class Limits:
    """What one file may still cost: steps of its pickles, bytes of its values."""

    size: int  # bytes of the file
    steps: int = MAX_STEPS
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.bytes = MAX_GROWTH * self.size + ALLOWANCE

    def take_steps(self, count: int) -> None:
        """Raises DamagedFileError when the file is not data of the kind that is read here."""
        self.steps -= count
        if self.steps < 0:
            raise DamagedFileError(f"its pickle takes more than {MAX_STEPS} steps, which no data file needs")

    def take_bytes(self, count: int) -> None:
        """Called before memory is taken. Raises DamagedFileError when a small file would become large."""
        self.bytes -= count
        if self.bytes < 0:
            raise DamagedFileError(f"{count} more bytes wanted by a file of {self.size} bytes, whose values may take "
                                   f"{MAX_GROWTH} times as much and {ALLOWANCE >> 20} MiB")


class Record:
    """Constructor arguments and state as the pickle gave them."""

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...] = args
        self.state: Any = None


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


class Object(Record):
    """builtins.object, as the base given to copyreg._reconstructor."""


class Foreign:
    """Anything that is not in the table of permitted names: the name only. Calling it and changing it do nothing."""

    def __init__(self, name: str) -> None:
        self.name = name


class TorchStorage:
    """Raw bytes of a torch storage, read when the first tensor needs them, and their element type and number."""

    def __init__(self, dtype: torch.dtype, count: int, read: Callable[[], bytes | memoryview] | None) -> None:
        self.dtype, self.count, self.read = dtype, count, read
        self._data: bytes | memoryview | None = None

    @property
    def data(self) -> bytes | memoryview:
        """count x dtype.itemsize bytes. Raises DamagedFileError when the file has others."""
        if self._data is None:
            if self.read is None:
                raise DamagedFileError("the bytes of a storage are missing")
            self._data = self.read()
            if len(self._data) != self.count * self.dtype.itemsize:
                raise DamagedFileError(f"a storage has {len(self._data)} bytes, wanted {self.count} x {self.dtype}")
        return self._data


class Function:
    """One of the few calls that data needs and that are carried out: f(limits, *arguments)."""

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self.name, self.run = name, run


def _encoded(limits: Limits, text: Any, encoding: Any = "latin1") -> bytes:
    """_codecs.encode, with which Python 3 writes bytes below protocol 3."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"refused _codecs.encode with {shown(encoding)}")
    limits.take_bytes(len(text))
    return text.encode("latin1")


def _no_bytes(limits: Limits) -> bytes:
    """bytes(), with which Python 3 writes empty bytes below protocol 3."""
    return b""


def _reconstructed(limits: Limits, kind: Any, *_: Any) -> Record | Foreign:
    """copyreg._reconstructor(cls, object, None), with which protocols 0 and 1 create instances."""
    if isinstance(kind, Foreign):
        return Foreign(kind.name)
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise UnsafePickleError(f"refused copyreg._reconstructor of {shown(kind)}")
    return kind()


def _set(limits: Limits, items: Any = ()) -> set[Any]:
    """set(list)."""
    limits.take_steps(len(items))
    return {checked_key(item) for item in items}


def _dict(limits: Limits, items: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict, of nothing or of pairs."""
    limits.take_steps(len(items))
    return {checked_key(key): value for key, value in items}


ENCODE, NO_BYTES = Function("_codecs.encode", _encoded), Function("bytes", _no_bytes)
RECONSTRUCT = Function("copyreg._reconstructor", _reconstructed)
SET, ORDERED_DICT = Function("set", _set), Function("collections.OrderedDict", _dict)


def checked_key(key: Any) -> Any:
    """What may be the key of a dict or a member of a set: its hash must be found in one step.

    Raises DamagedFileError for a key of another kind (a container in a container, a number of hundreds of digits).
    """
    if isinstance(key, tuple) and len(key) <= 8 and not any(isinstance(part, tuple) for part in key):
        return tuple(map(checked_key, key))
    plain = key is None or isinstance(key, (str, bytes, float, Record, Foreign, torch.dtype))
    if plain or (isinstance(key, int) and key.bit_length() <= 64):
        return key
    raise DamagedFileError(f"{shown(key)} as the key of a dict or the member of a set")


def kind_of(value: Any) -> str:
    """A word for error messages: the type's name, or the stand-in's own name."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


def shown(value: Any) -> str:
    """A value for error messages, never longer than a line and found in one step, whatever it is."""
    if isinstance(value, str):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return kind_of(value)
