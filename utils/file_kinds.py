"""What a file seems to be that was expected to be another, and how large an archive may be inside."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_INFLATION, ALLOWANCE = 20, 256 << 20
"""Members of a zip archive may take this many times the archive's size, and so many bytes besides."""

MAX_MEMBERS = 100_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class DamagedFileError(ValueError):
    """A file is truncated, is not of the expected kind, contradicts itself, or is larger inside than it can be."""


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """DamagedFileError for an archive of `size` bytes whose members would take far more, before any is read.

    Encrypted members and compression methods that data files do not use are refused too.
    """
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > MAX_INFLATION * size + ALLOWANCE or len(members) > MAX_MEMBERS:
        raise DamagedFileError(f"a zip archive of {size} bytes whose {len(members)} members would take {total}; no "
                               "data file is compressed so far")
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in _METHODS:
            raise DamagedFileError(f"a zip archive whose member {member.filename[:60]!r} is encrypted or compressed in "
                                   "an unusual way")


def what_else(path: Path) -> str:
    """"; <what the file seems to be, and what helps>" for the end of an error message, or nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return ""
    found = _kind(head, path)
    return f"; {found}" if found else ""


def _kind(head: bytes, path: Path) -> str:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "the file is empty: was the download interrupted?"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ("it is a web page: a login or error page was saved in place of the file. Log in with a browser and "
                "download it again")
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it stands for: `git lfs pull` fetches that"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head.startswith(b"\x1f\x8b"):
        return "it is a gzip archive: unpack it"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    if head.startswith((b"{\n", b"{\r\n", b'{"')):
        return "it is JSON text"
    ends = head.count(b"\n")
    if ends >= 10 and head.count(b"\r\n") == ends:
        return ("every line end in it is CR LF: it was copied as text (FTP or Git in text mode), which damages it. "
                "Copy the original again in binary mode")
    return ""


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()[:1000]]
    except Exception:  # a damaged archive is reported by whoever reads it
        return "it begins as a zip archive"
    if any(name.endswith("/data.pkl") for name in names):
        return "it was written by torch.save: save the dict with pickle.dump instead"
    inside = next((name for name in names if name.endswith((".pkl", ".npz", ".frame"))), "")
    return "it is a zip archive: unpack it" + (f" and use {inside[:80]} from it" if inside else "")
