"""Files that are either the old version or the new one, never half of either.

Every writer goes through `replacing`: the content is written to a temporary file in the same folder, flushed to
the disk, and renamed over the target, which POSIX and Windows both do in one step. Whatever goes wrong before the
rename (a full disk, a crash, a kill) leaves the previous file untouched.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class WriteError(OSError):
    """A file could not be written; the message names it, the cause, and what is left in its place."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, rename it to `path`.

    The temporary name keeps the suffix, because image, video and array writers choose their format by it. The folder
    is created when missing. The file gets the usual rights (those that the umask leaves), whatever its writer chose.
    A block that writes nothing is an error.

    Raises:
        WriteError: an OSError or SafetensorError (disk full, permission, a folder in the way) inside the block or in
            the renaming. Any other exception passes unchanged, and so does an OSError that names another file. In all
            cases `path` keeps its previous content.
    """
    path = Path(path)
    temporary = _beside(path, ".tmp" + path.suffix, path.stem)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise _as_write_error(error, path, temporary) from error
    finally:
        with suppress(OSError):  # a parent that is no folder must not hide the error being reported
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a folder with files: it appears complete, and replaces an older one in one step.

    Where the file system cannot exchange two folders, the old one lies under a hidden name for a moment; `sweep`, at
    the next start, puts it back when the moment was the last. Raises WriteError.
    """
    path = Path(path)
    temporary = _beside(path, ".tmp", path.name)
    try:
        temporary.mkdir(parents=True)
        sweep(path.parent)
        yield temporary
        for inner in sorted(temporary.rglob("*")):
            if inner.is_file():
                _settle(inner)
        _put_in_place(temporary, path)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise _as_write_error(error, path, temporary) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: str | Path) -> None:
    """Remove what earlier writers left in `folder` when they were killed.

    Only names that this module gives, of processes of this machine that are no more, or untouched for `STALE` seconds:
    other machines may be writing into a shared folder. A folder that was moved aside is put back if nothing took its
    place.
    """
    with suppress(OSError):
        for entry in list(Path(folder).iterdir()):
            found = _NAME.fullmatch(entry.name)
            if found and _is_stale(entry, found["machine"], int(found["pid"])):
                target = entry.with_name(found["name"])
                if found["kind"] == ".old" and not target.exists():
                    os.rename(entry, target)
                elif entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def sweep_once(folder: Path) -> None:
    """`sweep` at the first write of this process into `folder`."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def terminate_as_exit() -> None:
    """Let SIGTERM end the program as an exception does, so that half-written files are removed. Main thread only."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _machine() -> str:
    """Eight characters for this boot of this machine, and this container on it: where a process number is unique."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(file) if "ns" in file else Path(file).read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


STALE = 2 * 24 * 3600
"""Seconds after which a temporary file is nobody's, on whatever machine it was made."""

MACHINE = _machine()
"""Where a process number is unique: this boot of this machine, this container on it."""

_UMASK = os.umask(0)
os.umask(_UMASK)
_swept: set[Path] = set()
_NAME = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(?P<kind>\.tmp|\.old)(\.\w+)?")


def _beside(path: Path, ending: str, name: str) -> Path:
    """A name in the same folder that tells whose it is: no result has it, nor does another writer."""
    return path.with_name(f".{name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}{ending}")


def _is_stale(entry: Path, machine: str, pid: int) -> bool:
    if machine == MACHINE and not lives(pid):
        return True
    try:
        newest = max(p.lstat().st_mtime for p in (entry, *(entry.rglob("*") if entry.is_dir() else ())))
    except OSError:  # it went away meanwhile
        return False
    return time.time() - newest > STALE


def lives(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if os.name == "nt":
        return True  # asking would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    with suppress(OSError, IndexError):  # Linux: one that has ended and waits for its parent to notice does not run
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        if path.exists():
            path.rmdir()
        os.rename(temporary, path)
    elif not _exchange(temporary, path):  # exchanged, the old folder has the temporary name
        aside = _beside(path, ".old", path.name)
        os.rename(path, aside)
        os.rename(temporary, path)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Linux: let two folders exchange their names in one step. False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(rename(-100, os.fsencode(a), -100, os.fsencode(b), ctypes.c_uint(2)) == 0)  # AT_FDCWD, EXCHANGE
    except (AttributeError, OSError, TypeError):
        return False


def _as_write_error(error: Exception, path: Path, temporary: Path) -> Exception:
    """The error to raise for what went wrong while `path` was written."""
    given = [getattr(error, name, None) for name in ("filename", "filename2")]
    named = [Path(os.fsdecode(name)) for name in given if isinstance(name, (str, bytes, Path))]
    ours = [name for name in named if name in (path, temporary, *path.parents) or temporary in name.parents]
    if isinstance(error, WriteError) or (named and not ours):
        return error
    kept = "what was there before is unchanged" if path.is_dir() else "the previous file is unchanged"
    kept = kept if path.exists() else "nothing was left in its place"
    return WriteError(f"{path}: could not be written: {getattr(error, 'strerror', None) or error}; {kept}")


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

    Raises WriteError.
    """
    with replacing(path) as temporary:
        writer(temporary)


def _settle(path: Path) -> None:
    """Give the file the usual rights and bring it to the disk."""
    with suppress(OSError):  # a file system without rights
        os.chmod(path, 0o666 & ~_UMASK)
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
