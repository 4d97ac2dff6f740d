"""Files that are either the old version or the new one, never half of either.

Every writer goes through `replacing`: the content is written to a temporary file in the same folder, flushed to
the disk, and renamed over the target, which POSIX and Windows both do in one step. Whatever goes wrong before the
rename (a full disk, a crash, a kill) leaves the previous file untouched.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file could not be written; the message names it, the cause, and what is left in its place."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, rename it to `path`.

    The temporary name keeps the suffix, because image, video and array writers choose their format by it. The folder
    is created when missing. A block that writes nothing is an error.

    Raises:
        WriteError: an OSError (disk full, permission, a folder in the way) inside the block or in the renaming.
            Any other exception passes unchanged. In both cases `path` keeps its previous content.
    """
    path = Path(path)
    # Hidden and random: a crashed run's leftover is never mistaken for a result, nor two writers for one another.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        kept = "the previous file is unchanged" if path.exists() else "nothing was left in its place"
        raise WriteError(f"{path}: could not be written: {error.strerror or error}; {kept}") from error
    finally:
        with suppress(OSError):  # a parent that is no folder must not hide the error being reported
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Raises WriteError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with unix line ends to `path` atomically. Raises WriteError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically.

    Raises:
        WriteError: see `replacing`.
        ValueError, TypeError: `value` holds NaN or infinity (not JSON; most readers refuse it) or an object that JSON
            does not know. The file is then untouched.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: cannot be written as JSON: {error}") from error
    write_text(path, text + "\n")


def write_with(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Let `writer(temporary_path)` write the file (`np.savez`, safetensors' `save_file`, ...), then move it to `path`.

    Raises WriteError; some libraries report a full disk as their own exception type, which passes unchanged.
    """
    with replacing(path) as temporary:
        writer(temporary)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut. Windows cannot open folders and needs no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
