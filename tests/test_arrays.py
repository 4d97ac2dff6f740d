"""Reading .npy and .npz: plain arrays come back, everything else is named."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.arrays import read_npy, read_npz


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((3, 2), np.float32)),
              "t": np.array(["x", "yz"]), "s": np.array(3), "e": np.zeros((0, 4))}
    saves: list[Any] = [np.savez, np.savez_compressed]
    for save in saves:
        save(tmp_path / "x.npz", **arrays)
        got = read_npz(tmp_path / "x.npz")
        assert got.keys() == arrays.keys()
        for name, array in arrays.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array)
    np.save(tmp_path / "x.npy", arrays["a"])
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), arrays["a"])


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"no array", "not a plain array"),
    (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"), "0 bytes of data, wanted 8"),
    (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"N."), "elements of type object"),
    (header("{'descr': '|S0', 'fortran_order': False, 'shape': (4000000000,), }\n"), "elements of type"),
])
def test_what_is_no_plain_array_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.npy: .*{message}"):
        read_npy(tmp_path / "x.npy")


def test_an_archive_that_would_become_enormous_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, \
            archive.open("a.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"x\.npz: .* members would take 314572800"):
        read_npz(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"x\.npz: cannot be read as \.npz"):
        read_npz(tmp_path / "x.npz")
