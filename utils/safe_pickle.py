"""Reading pickles without executing anything in them.

A pickle is a program: each GLOBAL opcode names something to import and REDUCE calls it. Here no name is ever imported.
Every permitted name stands for a class of `utils.pickle_records` that only records; any other name raises
`UnsafePickleError`. NumPy's and torch's own reconstruction is not reached either, so forged array states cannot reach
their C code. Nothing global is changed: files may be read from many threads at once.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import torch

from utils import pickle_records as records
from utils.pickle_records import DamagedFileError, TorchStorage, UnsafePickleError, finish, kind_of

__all__ = ["DamagedFileError", "UnsafePickleError", "load_flame_pickle", "load_numpy_dict", "load_torch_dict",
           "load_torch_tuple"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle in a file of torch.save before the zip format (torch < 1.6)

_ZIP_MAGIC = b"PK\x03\x04"
_NPY_MAGIC = b"\x93NUMPY"

_NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": records.NdarrayType,
    "numpy.dtype": records.Dtype,
    "_codecs.encode": records.Encoded,
    "collections.OrderedDict": records.OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1.x and 2.x
    _NUMPY_GLOBALS[f"{_core}.multiarray._reconstruct"] = records.Ndarray
    _NUMPY_GLOBALS[f"{_core}.multiarray.scalar"] = records.Scalar
    _NUMPY_GLOBALS[f"{_core}.numeric._frombuffer"] = records.Frombuffer
for _builtins, _copyreg in (("builtins", "copyreg"), ("__builtin__", "copy_reg")):  # Python 3 and 2
    _NUMPY_GLOBALS[f"{_builtins}.set"] = records.SetOf
    _NUMPY_GLOBALS[f"{_builtins}.bytes"] = records.NoBytes
    _NUMPY_GLOBALS[f"{_builtins}.object"] = records.Object
    _NUMPY_GLOBALS[f"{_copyreg}._reconstructor"] = records.Reconstructor

_FLAME_GLOBALS = _NUMPY_GLOBALS | {
    "chumpy.ch.Ch": records.ChumpyArray,
    "chumpy.Ch": records.ChumpyArray,
    "chumpy.reordering.Select": records.ChumpySelect,
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


def load_flame_pickle(path: str | Path, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Read a pickled dict such as FLAME's: ndarrays (chumpy and sparse ones become dense ndarrays), text, numbers.

    Python 2 and 3 pickles of any protocol; neither chumpy nor SciPy need be installed. keys: read only these (absent
    ones are left out), None reads all; a key that is not asked for may hold anything harmless.

    Raises UnsafePickleError naming the file and the refused global; DamagedFileError when the file is truncated, is no
    pickled dict, or a value cannot be read as data; OSError when it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        raw = _load(_Unpickler(file, path, _FLAME_GLOBALS, encoding="latin1"), path)
    if not isinstance(raw, dict):
        raise DamagedFileError(f"{path}: wanted a pickled dict, got {kind_of(raw)}")
    return _finish_dict({k: v for k, v in raw.items() if keys is None or k in keys}, path)


def load_torch_dict(path: str | Path) -> dict[Any, Any]:
    """Read a dict written by torch.save: (nested) dicts, lists, tuples of ndarrays, tensors, numbers and text.

    Zip format and the legacy one of torch < 1.6. Tensors of every device arrive on the CPU, with their dtype, without
    gradient; views that shared a storage become copies. Errors as in `load_flame_pickle`.
    """
    path = Path(path)
    raw = _read_torch(path)
    if not isinstance(raw, dict):
        raise DamagedFileError(f"{path}: wanted a saved dict, got {kind_of(raw)}")
    return _finish_dict(raw, path)


def load_torch_tuple(path: str | Path, length: int, entries: Collection[int]) -> dict[int, Any]:
    """Read some entries of a checkpoint written by torch.save((tuple of `length` values, iteration), path).

    The other entries may hold anything harmless, and their tensors are not formed. Values and errors as in
    `load_torch_dict`; DamagedFileError too for another structure.
    """
    path = Path(path)
    raw = _read_torch(path)
    values = raw[0] if isinstance(raw, (tuple, list)) and len(raw) == 2 else None
    if not isinstance(values, (tuple, list)) or len(values) != length:
        got = f"a tuple of {len(values)}" if isinstance(values, (tuple, list)) else kind_of(raw)
        raise DamagedFileError(f"{path}: wanted a saved pair (tuple of {length} values, iteration), got {got}")
    return _finish_dict({i: values[i] for i in entries}, path)


def load_numpy_dict(path: str | Path) -> dict[str, Any]:
    """Read a dict of arrays written by numpy.save (an object array without axes) or pickle.dump.

    Tensors among the values, saved as plain pickles, become CPU tensors. Errors as in `load_flame_pickle`.
    """
    path = Path(path)
    permitted = _TORCH_GLOBALS | {"torch.storage._load_from_bytes": records.TorchBytes}
    with path.open("rb") as file:
        if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
            major = file.read(2)[:1]
            size = 2 if major == b"\x01" else 4
            file.seek(int.from_bytes(file.read(size), "little"), io.SEEK_CUR)  # the header: nothing it says is needed
        else:
            file.seek(0)
        raw = _load(_Unpickler(file, path, permitted, encoding="latin1"), path)
    if isinstance(raw, records.Ndarray) and isinstance(raw.state, tuple) and isinstance(raw.state[-1], list):
        raw = raw.state[-1][0] if len(raw.state[-1]) == 1 else raw
    if not isinstance(raw, dict):
        raise DamagedFileError(f"{path}: wanted a saved dict, got {kind_of(raw)}")
    for value in raw.values():
        if isinstance(value, records.TorchTensor) and value.args and isinstance(value.args[0], records.TorchBytes):
            value.args = (_storage_of(value.args[0], path), *value.args[1:])
    return _finish_dict(raw, path)


def _storage_of(record: records.TorchBytes, path: Path) -> Any:
    """The storage that torch nests, as a legacy file of its own, in plain pickles of tensors."""
    if len(record.args) != 1 or not isinstance(record.args[0], bytes):
        raise DamagedFileError(f"{path}: a tensor's storage is not made of bytes")
    return _read_legacy(io.BytesIO(record.args[0]), path)


def _read_torch(path: Path) -> Any:
    """The records of a file of torch.save, zip or legacy."""
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        file.seek(0)
        return _read_zip(file, path) if is_zip else _read_legacy(file, path)


class _Unpickler(pickle.Unpickler):
    """Resolves permitted names to stand-ins and refuses every other one."""

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        permitted: dict[str, Any],
        encoding: str = "utf-8",
        storage: Callable[[torch.dtype, str, int], TorchStorage] | None = None,
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._path, self._permitted, self._storage = path, permitted, storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._permitted:
            return self._permitted[full]
        if self._permitted is _FLAME_GLOBALS and module.split(".")[0] == "chumpy":
            return records.ChumpyOther
        raise UnsafePickleError(f"{self._path}: refused the global {full}, which reading data does not need")

    def persistent_load(self, pid: Any) -> TorchStorage:
        known = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)
        if self._storage is None or not known:
            raise UnsafePickleError(f"{self._path}: refused the persistent object {str(pid)[:80]}")
        if len(pid) > 5 and pid[5] is not None:
            raise DamagedFileError(f"{self._path}: storage views of very old torch versions are not supported")
        return self._storage(pid[1], str(pid[2]), int(pid[4]))


def _load(unpickler: _Unpickler, path: Path) -> Any:
    """Run an unpickler; whatever goes wrong inside becomes one of our errors, with the file's name."""
    try:
        return unpickler.load()
    except UnsafePickleError as error:
        raise error if str(path) in str(error) else UnsafePickleError(f"{path}: {error}") from None
    except DamagedFileError:
        raise
    except Exception as error:  # a broken pickle can raise nearly anything from the unpickler
        raise DamagedFileError(f"{path}: truncated or not a pickle ({type(error).__name__}: {error})") from error


def _finish_dict(raw: dict[Any, Any], path: Path) -> dict[Any, Any]:
    try:
        return finish(raw, str(path))
    except RecursionError:
        raise DamagedFileError(f"{path}: nested too deeply, or contains itself") from None


def _read_zip(file: IO[bytes], path: Path) -> Any:
    """torch's zip archive: <name>/data.pkl, and one entry <name>/data/<key> per storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            pickles = [name for name in names if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise DamagedFileError(f"{path}: a zip file, but not one of torch.save (no data.pkl)")
            root = pickles[0][: -len("data.pkl")]
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise DamagedFileError(f"{path}: written on a big-endian machine, which is not supported")
            loaded: dict[str, TorchStorage] = {}

            def storage(dtype: torch.dtype, key: str, count: int) -> TorchStorage:
                if f"{root}data/{key}" not in names:
                    raise DamagedFileError(f"{path}: storage {key} is missing")
                if key not in loaded:
                    data = bytearray(archive.read(f"{root}data/{key}"))
                    if len(data) != count * dtype.itemsize:
                        raise DamagedFileError(f"{path}: storage {key} has {len(data)} bytes, wanted {count} x {dtype}")
                    loaded[key] = TorchStorage(data, dtype)
                return loaded[key]

            with archive.open(pickles[0]) as stream:
                return _load(_Unpickler(stream, path, _TORCH_GLOBALS, storage=storage), path)
    except (UnsafePickleError, DamagedFileError):
        raise
    except Exception as error:  # zipfile reports damage in many ways: BadZipFile, UnicodeDecodeError, zlib.error, ...
        raise DamagedFileError(f"{path}: damaged zip archive ({type(error).__name__}: {error})") from error


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    """Four pickles (magic number, version, machine, object), the list of storage keys, and each storage's bytes."""

    def next_pickle(storage: Callable[[torch.dtype, str, int], TorchStorage] | None = None) -> Any:
        return _load(_Unpickler(file, path, _TORCH_GLOBALS, storage=storage), path)

    if next_pickle() != _LEGACY_MAGIC:
        raise DamagedFileError(f"{path}: not a file of torch.save (neither a zip archive nor the legacy format)")
    next_pickle()
    if not next_pickle().get("little_endian", True):
        raise DamagedFileError(f"{path}: written on a big-endian machine, which is not supported")
    loaded: dict[str, TorchStorage] = {}
    counts: dict[str, int] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> TorchStorage:
        counts[key] = count
        return loaded.setdefault(key, TorchStorage(bytearray(), dtype))

    value = next_pickle(storage)
    for key in next_pickle():
        header = file.read(8)
        if key not in loaded or len(header) != 8 or struct.unpack("<q", header)[0] != counts[key]:
            raise DamagedFileError(f"{path}: truncated before storage {key}")
        size = counts[key] * loaded[key].dtype.itemsize
        loaded[key].data += file.read(size)
        if len(loaded[key].data) != size:
            raise DamagedFileError(f"{path}: truncated inside storage {key}")
    return value
