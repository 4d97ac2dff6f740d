"""Malicious pickles: nothing that one asks for is executed or imported, and no file affects the reading of the next."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.heads import pretend_modules
from utils import pickle_records
from utils.safe_pickle import DamagedFileError, UnsafePickleError, load_flame_pickle, load_torch_dict

ZIP = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: Any, as_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


ATTACKS = {
    "system": Call(os.system, "echo > executed"),
    "eval": Call(eval, "open('executed', 'w')"),
    "exec": Call(exec, "open('executed', 'w')"),
    "open": Call(open, "executed", "w"),
    "getattr": Call(getattr, Call(__import__, "os"), "system"),
    "path": Call(Path.touch, Path("executed")),
    "torch_load": Call(torch.load, "executed"),
    "numpy_load": Call(np.load, "executed"),
    "partial": Call(collections.namedtuple, "a", "b"),
    "nested_bytes": Call(pickle.loads, pickle.dumps(Call(os.system, "echo > executed"))),
    "torch_storage_bytes": Call(torch.storage._load_from_bytes, b"x"),
    "object_of_unknown_class": Call(threading.Event),
}


@ZIP
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_in_torch_files_run_nothing(tmp_path, monkeypatch, name, as_zip):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "a.frame", {"flame": {"exp": ATTACKS[name]}, "x": np.ones(3)}, as_zip)
    with pytest.raises(UnsafePickleError, match=r"a\.frame: refused the global \S+\.\S+, which reading data"):
        load_torch_dict(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_in_flame_files_run_nothing(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"f": ATTACKS[name]}, protocol=protocol))
    with pytest.raises(UnsafePickleError, match=r"a\.pkl: refused the global"):
        load_flame_pickle(tmp_path / "a.pkl")
    with pytest.raises(UnsafePickleError, match=r"a\.pkl: f: refused the global"):
        load_flame_pickle(tmp_path / "a.pkl", keys=["f"])
    assert load_flame_pickle(tmp_path / "a.pkl", keys=()) == {}
    assert not (tmp_path / "executed").exists()


def test_the_refused_global_is_named(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    with pytest.raises(UnsafePickleError, match=r"a\.pkl: refused the global builtins\.eval,"):
        load_flame_pickle(tmp_path / "a.pkl")


def test_nothing_is_imported(tmp_path, monkeypatch):
    """Naming a module must not load it: importing can run code."""
    (tmp_path / "trap.py").write_text("open('executed', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for program in (b"ctrap\nx\n.", b"\x80\x04\x8c\x04trap\x8c\x01x\x93."):
        (tmp_path / "a.pkl").write_bytes(program)
        with pytest.raises(UnsafePickleError, match=r"trap\.x"):
            load_flame_pickle(tmp_path / "a.pkl")
    assert "trap" not in sys.modules
    assert not (tmp_path / "executed").exists()


# GLOBAL a stand-in class, then BUILD it with (None, {attribute: value}): setattr on the class itself
POISONS = {
    "record": b"\x80\x02cnumpy\ndtype\nN}X\x0c\x00\x00\x00__setstate__K\x01s\x86b.",
    "encode": b"\x80\x02c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
    "dict": b"\x80\x02ccollections\nOrderedDict\nN}X\x03\x00\x00\x00getK\x01s\x86b.",
    "class_dict": b"\x80\x02c_codecs\nencode\n}X\x07\x00\x00\x00__new__K\x01sb.",
}


@pytest.mark.parametrize("name", POISONS)
def test_one_file_cannot_change_how_the_next_is_read(tmp_path, name):
    (tmp_path / "bad.pkl").write_bytes(POISONS[name])
    before = {kind: dict(vars(kind)) for kind in vars(pickle_records).values() if isinstance(kind, type)}
    with pytest.raises((UnsafePickleError, DamagedFileError), match=r"bad\.pkl"):
        load_flame_pickle(tmp_path / "bad.pkl")
    assert {kind: dict(vars(kind)) for kind in before} == before


def test_misused_stand_ins_are_refused(tmp_path):
    for program, message in (
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
            "refused _codecs.encode with 'rot13'",
        ),
        (b"\x80\x02ccopyreg\n_reconstructor\nK\x01\x85R.", "refused copyreg._reconstructor of 1"),
        (b"\x80\x02K\x01Q.", "refused the persistent object 1"),
    ):
        (tmp_path / "a.pkl").write_bytes(program)
        with pytest.raises(UnsafePickleError, match=message):
            load_flame_pickle(tmp_path / "a.pkl")


def array_pickle(shape: tuple[Any, ...] = (2,), code: str = "f8", raw: bytes = bytes(16), order: str = "<") -> bytes:
    """A pickled array with contents of choice, which numpy itself would not write."""
    dtype: type = type("dtype", (), {"__reduce__": lambda self: (dtype, (code, False, True), (3, order))})
    array: type = type("array", (), {"__reduce__": lambda self: (array, (0,), (1, shape, dtype(), False, raw))})
    with pretend_modules({"numpy.dtype": dtype, "numpy.core.multiarray._reconstruct": array}):
        return pickle.dumps({"x": array()}, protocol=2)


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"raw": bytes(15)}, "15 bytes for .* wanted 16"),
        ({"shape": (10**12,)}, "16 bytes for"),
        ({"shape": (-1, -2)}, "negative or enormous size"),
        ({"shape": ("a",)}, "TypeError"),
        ({"code": "O8"}, "dtype 'O8' is not numeric or text"),
        ({"code": "V16"}, "dtype 'V16' is not numeric or text"),
        ({"code": "f9"}, "not understood|data type"),
        ({"order": "?"}, "ValueError"),
        ({"shape": (4 * 10**9,), "code": "S0", "raw": b""}, "0 bytes for"),
        ({"shape": (1 << 1900,)}, "enormous size"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, contents, message):
    """Their bytes never reach numpy's own reconstruction, where object pointers could be forged."""
    (tmp_path / "a.pkl").write_bytes(array_pickle(**contents))
    with pytest.raises(DamagedFileError, match=rf"a\.pkl: x: inconsistent Ndarray .*({message})"):
        load_flame_pickle(tmp_path / "a.pkl")


def test_well_formed_arrays_of_the_forger_are_read(tmp_path):
    """The control of the test above."""
    (tmp_path / "a.pkl").write_bytes(array_pickle())
    np.testing.assert_array_equal(load_flame_pickle(tmp_path / "a.pkl")["x"], np.zeros(2))


def test_arrays_of_python_objects_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": np.array([{}, []], dtype=object)}))
    with pytest.raises(DamagedFileError, match=r"a\.pkl: x: .*is not numeric or text"):
        load_flame_pickle(tmp_path / "a.pkl")
