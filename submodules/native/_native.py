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


class NativeLibraryError(RuntimeError):
    """The native library is not built, does not load, or reported a failure."""


def is_built(kind: str) -> bool:
    """Whether the library of `kind` ("cpu" or "cuda") lies in this package."""
    return (_FOLDER / f"_native_{kind}.so").is_file()


@cache
def load(kind: str) -> ctypes.CDLL:
    """The package's library of `kind` ("cpu" or "cuda"); NativeLibraryError names the command that builds it."""
    path = _FOLDER / f"_native_{kind}.so"
    package = _FOLDER.name.replace("_", "-")
    command = ("BUILD_CUDA=1 " if kind == "cuda" else "") + f"pip install --no-build-isolation ./submodules/{package}"
    if not path.is_file():
        raise NativeLibraryError(f"{_FOLDER.name} is not built for {kind}: {path} is missing; build it with: {command}")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeLibraryError(f"{path} does not load ({error}); build it again with: {command}") from error


def check(library: ctypes.CDLL, prefix: str, status: int) -> None:
    """Raise NativeLibraryError with the text of `<prefix>_last_error()` unless `status` is 0."""
    if status:
        message = getattr(library, f"{prefix}_last_error")
        message.restype = ctypes.c_char_p
        raise NativeLibraryError(f"{prefix}: {(message() or b'unknown failure').decode()}")


def pointer(tensor: Any) -> ctypes.c_void_p:
    """Address of a tensor's first element; None becomes a null pointer."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
