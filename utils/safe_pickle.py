"""Reading pickles without executing anything in them.

A pickle is a program: each GLOBAL opcode names something to import and REDUCE calls it. Here `utils.pickle_machine`
interprets it instead of Python's unpickler, and no name is ever imported. A permitted name stands for a class of
`utils.pickle_records` that only records; what any other name makes is skipped where nobody reads it and raises
`UnsafePickleError` where somebody does. NumPy's and torch's own reconstruction is not reached either, so forged array
states cannot reach their C code. Sizes are checked against the file before memory is taken. Nothing global is changed:
files may be read from many threads at once.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from utils import pickle_records as records
from utils.file_kinds import check_members, what_else
from utils.pickle_machine import Machine, MakeStorage
from utils.pickle_records import DamagedFileError, Foreign, Limits, TorchStorage, UnsafePickleError, kind_of
from utils.pickle_values import Values

__all__ = ["DamagedFileError", "UnsafePickleError", "load_flame_pickle", "load_numpy_dict", "load_torch_dict",
           "load_torch_tuple"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle in a file of torch.save before the zip format (torch < 1.6)

_ZIP_MAGIC = b"PK\x03\x04"
_NPY_MAGIC = b"\x93NUMPY"

_NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": records.NdarrayType,
    "numpy.dtype": records.Dtype,
    "_codecs.encode": records.ENCODE,
    "collections.OrderedDict": records.ORDERED_DICT,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1.x and 2.x
    _NUMPY_GLOBALS[f"{_core}.multiarray._reconstruct"] = records.Ndarray
    _NUMPY_GLOBALS[f"{_core}.multiarray.scalar"] = records.Scalar
    _NUMPY_GLOBALS[f"{_core}.numeric._frombuffer"] = records.Frombuffer
for _builtins, _copyreg in (("builtins", "copyreg"), ("__builtin__", "copy_reg")):  # Python 3 and 2
    _NUMPY_GLOBALS[f"{_builtins}.set"] = records.SET
    _NUMPY_GLOBALS[f"{_builtins}.bytes"] = records.NO_BYTES
    _NUMPY_GLOBALS[f"{_builtins}.object"] = records.Object
    _NUMPY_GLOBALS[f"{_copyreg}._reconstructor"] = records.RECONSTRUCT

_FLAME_GLOBALS = _NUMPY_GLOBALS | {
    "chumpy.ch.Ch": records.ChumpyArray,
    "chumpy.Ch": records.ChumpyArray,
    "chumpy.reordering.Select": records.ChumpySelect,
    "chumpy": records.ChumpyOther,  # whatever else this package has
}
for _format, _stand_in in (
    ("csc", records.SparseColumns),
    ("csr", records.SparseRows),
    ("coo", records.SparseTriples),
):
    for _container in ("matrix", "array"):
        for _module in (_format, f"_{_format}"):  # SciPy before and after 1.8
            _FLAME_GLOBALS[f"scipy.sparse.{_module}.{_format}_{_container}"] = _stand_in

_STORAGE_TYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_TORCH_GLOBALS = _NUMPY_GLOBALS | {
    "torch._utils._rebuild_tensor": records.TorchTensor,
    "torch._utils._rebuild_tensor_v2": records.TorchTensor,
    "torch._utils._rebuild_parameter": records.TorchParameter,
    "torch.device": records.TorchDevice,
    "torch.Size": records.TorchSize,
}
for _name, _dtype in _STORAGE_TYPES.items():
    _TORCH_GLOBALS |= {f"torch.{_name}": _dtype, f"torch.cuda.{_name}": _dtype, str(_dtype): _dtype}


Keys = Collection[str | tuple[str, ...]]
"""What is asked of a file: keys of its dict, and paths of keys through dicts inside it."""


def load_flame_pickle(path: str | Path, keys: Keys | None = None) -> dict[str, Any]:
    """Read a pickled dict such as FLAME's: ndarrays (chumpy and sparse ones become dense ndarrays), text, numbers.

    Python 2 and 3 pickles of any protocol; neither chumpy nor SciPy need be installed. keys: read only these (absent
    ones are left out), None reads all; a key that is not asked for may hold anything.

    Raises UnsafePickleError naming the file and the refused global; DamagedFileError when the file is truncated, is no
    pickled dict, takes far more memory than its size, or a value cannot be read as data, with what the file seems to
    be instead; OSError when it cannot be opened.
    """
    path = Path(path)
    with _named(path):
        data = path.read_bytes()
        limits = Limits(len(data))
        raw = _run(data, _FLAME_GLOBALS, limits, path, keys is None)
        return Values(limits).finish(_chosen(raw, keys, path, "pickled"), str(path))


def load_torch_dict(path: str | Path, keys: Keys | None = None) -> dict[Any, Any]:
    """Read a dict written by torch.save: (nested) dicts, lists, tuples of ndarrays, tensors, numbers and text.

    Zip format and the legacy one of torch < 1.6. Tensors of every device arrive on the CPU, with their dtype, without
    gradient; views that shared a storage become copies. keys, errors: as in `load_flame_pickle`.
    """
    path = Path(path)
    with _torch_file(path, keys is None) as (raw, values):
        return values.finish(_chosen(raw, keys, path, "saved"), str(path))


def load_torch_tuple(path: str | Path, length: int, entries: Collection[int]) -> dict[int, Any]:
    """Read some entries of a checkpoint written by torch.save((tuple of `length` values, iteration), path).

    The other entries may hold anything, and their tensors are not read. Values and errors as in `load_torch_dict`;
    DamagedFileError too for another structure.
    """
    path = Path(path)
    with _torch_file(path, strict=False) as (raw, values):
        found = raw[0] if isinstance(raw, (tuple, list)) and len(raw) == 2 else None
        if not isinstance(found, (tuple, list)) or len(found) != length:
            got = f"a tuple of {len(found)}" if isinstance(found, (tuple, list)) else kind_of(raw)
            raise DamagedFileError(f"{path}: wanted a saved pair (tuple of {length} values, iteration), got {got}")
        return {i: values.finish(found[i], f"{path}: entry {i}") for i in entries}


def load_numpy_dict(path: str | Path) -> dict[str, Any]:
    """Read a dict of arrays written by numpy.save (an object array without axes) or pickle.dump.

    Tensors among the values, saved as plain pickles, become CPU tensors. Errors as in `load_flame_pickle`.
    """
    path = Path(path)
    permitted = _TORCH_GLOBALS | {"torch.storage._load_from_bytes": records.TorchBytes}
    with _named(path):
        data = path.read_bytes()
        start = 0
        if data.startswith(_NPY_MAGIC):  # then a header, of which nothing is needed
            size = 2 if data[6:7] == b"\x01" else 4
            start = 8 + size + int.from_bytes(data[8:8 + size], "little")
        limits = Limits(len(data))
        raw = _run(data, permitted, limits, path, True, start)
        state = raw.state if isinstance(raw, records.Ndarray) else None
        if isinstance(state, tuple) and state and isinstance(state[-1], list) and len(state[-1]) == 1:
            raw = state[-1][0]
        chosen = _chosen(raw, None, path, "saved")
        for value in chosen.values():
            if isinstance(value, records.TorchTensor) and value.args and isinstance(value.args[0], records.TorchBytes):
                value.args = (_storage_of(value.args[0], limits, path), *value.args[1:])
        return Values(limits).finish(chosen, str(path))


def _storage_of(record: records.TorchBytes, limits: Limits, path: Path) -> Any:
    """The storage that torch nests, as a legacy file of its own, in plain pickles of tensors."""
    data = record.args[0] if len(record.args) == 1 else None
    if not isinstance(data, (bytes, memoryview)):
        raise DamagedFileError(f"{path}: a tensor's storage is not made of bytes")
    limits.take_bytes(len(data))
    return _read_legacy(memoryview(data), limits, path, True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes one of our errors, with the file's name."""
    try:
        yield
    except (UnsafePickleError, DamagedFileError) as error:
        raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from None


def _chosen(raw: Any, keys: Keys | None, path: Path, how: str) -> dict[Any, Any]:
    """The asked parts of a raw dict, nested as they were."""
    if isinstance(raw, Foreign):
        raise UnsafePickleError(f"{path}: refused the global {raw.name}, which reading data does not need")
    if not isinstance(raw, dict):
        raise DamagedFileError(f"{path}: wanted a {how} dict, got {kind_of(raw)}{what_else(path)}")
    if keys is None:
        return raw
    chosen: dict[Any, Any] = {}
    for key in keys:
        names = (key,) if isinstance(key, str) else key
        source: Any = raw
        target = chosen
        for name in names[:-1]:
            source = source.get(name)
            if not isinstance(source, dict):
                break
            target = target.setdefault(name, {})
        if isinstance(source, dict) and names[-1] in source:
            target[names[-1]] = source[names[-1]]
    return chosen


def _run(data: bytes | memoryview, permitted: Mapping[str, Any], limits: Limits, path: Path, strict: bool,
         start: int = 0) -> Any:
    """The raw value of a pickle; strict: any name that is not permitted is an error."""
    return _next(Machine(memoryview(data), permitted, limits, position=start), path, strict)


def _next(machine: Machine, path: Path, strict: bool) -> Any:
    try:
        value = machine.run()
    except UnsafePickleError as error:
        # An archive begins like a pickle that asks for an object from elsewhere.
        if machine.storage is None and (hint := what_else(path)):
            raise DamagedFileError(f"{path}: not a pickle{hint}") from error
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        said = str(error)[:200] if isinstance(error, DamagedFileError) else f"{type(error).__name__}: {error!s:.200}"
        hint = "" if machine.storage else what_else(path)
        raise DamagedFileError(f"{path}: truncated or not a pickle ({said}){hint}") from error
    if strict and machine.foreign:
        raise UnsafePickleError(f"{path}: refused the global {machine.foreign[0]}, which reading data does not need")
    return value


@contextmanager
def _torch_file(path: Path, strict: bool) -> Iterator[tuple[Any, Values]]:
    """The raw value of a file of torch.save, zip or legacy, and what builds values of it while the file is open."""
    with _named(path), path.open("rb") as file:
        limits = Limits(path.stat().st_size)
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            file.seek(0)
            yield _read_legacy(memoryview(file.read()), limits, path, strict), Values(limits)
            return
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile reports damage in many ways: BadZipFile, UnicodeDecodeError, ...
            raise _damaged_zip(path, error) from error
        with archive:
            yield _read_zip(archive, limits, path, strict), Values(limits)


def _damaged_zip(path: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"{path}: damaged zip archive ({type(error).__name__}: {error!s:.200})")


def _read_zip(archive: zipfile.ZipFile, limits: Limits, path: Path, strict: bool) -> Any:
    """torch's zip archive: <name>/data.pkl, and one entry <name>/data/<key> per storage."""
    check_members(archive, limits.size)
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DamagedFileError(f"{path}: a zip file, but not one of torch.save (no data.pkl){what_else(path)}")
    root = pickles[0][: -len("data.pkl")]

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except Exception as error:
            raise _damaged_zip(path, error) from error

    if f"{root}byteorder" in members and read(f"{root}byteorder") != b"little":
        raise DamagedFileError(f"{path}: written on a big-endian machine, which is not supported")
    made: dict[str, TorchStorage] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> TorchStorage:
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise DamagedFileError(f"storage {key[:60]} is missing")
        if member.file_size != count * dtype.itemsize:
            raise DamagedFileError(f"storage {key[:60]} has {member.file_size} bytes, wanted {count} x {dtype}")
        return made.setdefault(key, TorchStorage(dtype, count, partial(read, member.filename)))

    data = read(pickles[0])
    return _next(Machine(memoryview(data), _TORCH_GLOBALS, limits, "utf-8", storage), path, strict)


def _read_legacy(data: memoryview, limits: Limits, path: Path, strict: bool) -> Any:
    """Four pickles (magic number, version, machine, object), the list of storage keys, and each storage's bytes."""
    made: dict[str, TorchStorage] = {}
    position = 0

    def next_pickle(storage: MakeStorage | None = None) -> Any:
        nonlocal position
        machine = Machine(data, _TORCH_GLOBALS, limits, "utf-8", storage, position)
        value = _next(machine, path, strict)
        position = machine.position
        return value

    if next_pickle() != _LEGACY_MAGIC:
        raise DamagedFileError(f"{path}: not a file of torch.save (neither a zip archive nor the legacy format)"
                               f"{what_else(path)}")
    next_pickle()
    written_on = next_pickle()
    if not isinstance(written_on, dict):
        raise DamagedFileError(f"{path}: legacy file of torch.save: wanted a dict of its machine, got "
                               f"{kind_of(written_on)}")
    if not written_on.get("little_endian", True):
        raise DamagedFileError(f"{path}: written on a big-endian machine, which is not supported")
    value = next_pickle(lambda dtype, key, count: made.setdefault(key, TorchStorage(dtype, count, None)))
    keys = next_pickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in made for key in keys):
        raise DamagedFileError(f"{path}: truncated or damaged: its list of storages is not one")
    for key in keys:
        position = _place_storage(made[key], data, position, f"{path}: truncated", key)
    return value


def _place_storage(storage: TorchStorage, data: memoryview, position: int, truncated: str, key: str) -> int:
    """Tell a storage of a legacy file where its bytes are; returns the position behind them."""
    begin = position + 8
    if begin > len(data) or struct.unpack("<q", data[position:begin])[0] != storage.count:
        raise DamagedFileError(f"{truncated} before storage {key[:60]}")
    end = begin + storage.count * storage.dtype.itemsize
    if end > len(data):
        raise DamagedFileError(f"{truncated} inside storage {key[:60]}")
    storage.read = lambda: data[begin:end]
    return end
