"""Finds and calls the native library of the package it lies in.

The build helper (`submodules/native/build_native.py`) places this file into every package it builds, so that packages
need not import each other. Edit it there.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent
_PREFIXES: dict[str, str] = {}
_MIRRORS: dict[str, float] = {}


class NativeLibraryError(RuntimeError):
    """The native library is not built, does not load, or reported a failure."""


def is_built(kind: str) -> bool:
    """Whether the library of `kind` ("cpu" or "cuda") lies in this package."""
    return (_FOLDER / f"_native_{kind}.so").is_file()


def mirror(prefix: str, *structures: type[ctypes.Structure], **constants: float) -> None:
    """Declare what this package's Python repeats of its headers; `load` compares it with `<prefix>_layout()`."""
    _PREFIXES["layout"] = f"{prefix}_layout"
    _MIRRORS.update(constants)
    for kind in structures:
        _MIRRORS[kind.__name__] = ctypes.sizeof(kind)
        _MIRRORS.update({f"{kind.__name__}.{field[0]}": getattr(kind, field[0]).offset for field in kind._fields_})


def disagreements(library: ctypes.CDLL) -> list[str]:
    """Where the library's structures and constants differ from Python's; empty when they fit."""
    if not _MIRRORS:
        return []
    layout = getattr(library, _PREFIXES["layout"], None)
    if layout is None:
        return [f"{_PREFIXES['layout']} is not in the library"]
    layout.restype = ctypes.c_char_p
    pairs = (line.rsplit(" ", 1) for line in layout().decode().splitlines())
    found = {name: float(value) for name, value in pairs}
    names = sorted(name for name in found.keys() | _MIRRORS.keys() if found.get(name) != _MIRRORS.get(name))
    return [f"{name} is {found.get(name)} in the library, {_MIRRORS.get(name)} in Python" for name in names]


@cache
def load(kind: str) -> ctypes.CDLL:
    """The package's library of `kind` ("cpu" or "cuda"); NativeLibraryError names the command that builds it.

    Raised too where the library was built from other sources than this Python, which would misplace every argument.
    """
    path = _FOLDER / f"_native_{kind}.so"
    package = _FOLDER.name.replace("_", "-")
    command = ("BUILD_CUDA=1 " if kind == "cuda" else "") + f"pip install --no-build-isolation ./submodules/{package}"
    if not path.is_file():
        raise NativeLibraryError(f"{_FOLDER.name} is not built for {kind}: {path} is missing; build it with: {command}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeLibraryError(f"{path} does not load ({error}); build it again with: {command}") from error
    if differing := disagreements(library):
        raise NativeLibraryError(
            f"{path} was built from other sources than this Python ({differing[0]}; {len(differing)} such in all); "
            f"build it again with: {command}"
        )
    return library


def check(library: ctypes.CDLL, prefix: str, status: int) -> None:
    """Raise NativeLibraryError with the text of `<prefix>_last_error()` unless `status` is 0."""
    if status:
        message = getattr(library, f"{prefix}_last_error")
        message.restype = ctypes.c_char_p
        raise NativeLibraryError(f"{prefix}: {(message() or b'unknown failure').decode()}")


def pointer(tensor: Any) -> ctypes.c_void_p:
    """Address of a tensor's first element; None becomes a null pointer."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
