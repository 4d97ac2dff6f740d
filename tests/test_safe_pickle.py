"""Reading pickles: the values come back as written, and whatever is broken is named."""

from __future__ import annotations

import io
import pickle
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.heads import pretend_modules
from utils.safe_pickle import DamagedFileError, UnsafePickleError, load_flame_pickle, load_torch_dict

ZIP = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


def frame_record() -> dict[str, Any]:
    """A tracker's record: ndarrays with a batch axis, nested dicts, an integer and a text."""
    draw = np.random.default_rng(0)
    return {
        "flame": {"exp": draw.normal(size=(1, 100)).astype(np.float32), "shape": draw.normal(size=(1, 300))},
        "opencv": {"R": np.eye(3, dtype=np.float32)[None], "K": np.asfortranarray(draw.normal(size=(1, 3, 3)))},
        "img_size": np.array([512, 512]),
        "frame_id": "00017",
        "global_step": 17,
        "scale": np.float32(0.5),
        "flags": (True, None, [1.5, b"raw"], {"a", "b"}),
    }


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            same(left, right)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


def save(path: Path, value: Any, as_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


def rewrite_pickle(path: Path, change) -> None:
    """Replace data.pkl inside a zip of torch.save by change(bytes); None drops no entry."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)


# ---- what must be readable ------------------------------------------------------------------------------------------


@ZIP
def test_frame_records_come_back(tmp_path, as_zip):
    record = frame_record()
    same(load_torch_dict(save(tmp_path / "00000.frame", record, as_zip)), record)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"], ids=["numpy1", "numpy2"])
def test_arrays_of_either_numpy_generation(tmp_path, core):
    """numpy 2 moved the module that a pickled array names; protocol 2 holds the name as plain text."""
    path = save(tmp_path / "a.frame", frame_record())
    written = b"numpy._core" if np.__version__ >= "2" else b"numpy.core"
    rewrite_pickle(path, lambda data: data.replace(b"c" + written, b"c" + core))
    with zipfile.ZipFile(path) as archive:
        assert core + b".multiarray" in archive.read("a/data.pkl")
    same(load_torch_dict(path), frame_record())


@ZIP
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"])
def test_tensors_of_every_type(tmp_path, as_zip, dtype):
    values = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    same(load_torch_dict(save(tmp_path / "a.pth", {"x": values}, as_zip)), {"x": values})


@ZIP
def test_views_parameters_and_state_dicts(tmp_path, as_zip):
    base = torch.arange(12.0).reshape(3, 4)
    saved: dict[str, Any] = {
        "transposed": base.T,
        "row": base[1],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "state": torch.nn.Linear(2, 3).state_dict(),
        "parameter": torch.nn.Parameter(base),
        "size": base.shape,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "tuple": (torch.ones(2), 40_000),
    }
    got = load_torch_dict(save(tmp_path / "a.pth", saved, as_zip))
    same(got["transposed"], base.T)
    same(got["row"], base[1])
    same(got["empty"], torch.zeros(0, 3))
    same(got["scalar"], torch.tensor(2.5))
    same(got["state"], dict(saved["state"]))
    same(got["parameter"], base)
    assert not got["parameter"].requires_grad
    assert got["size"] == (3, 4)
    assert got["dtype"] == torch.float32
    same(got["tuple"], saved["tuple"])


def test_files_without_a_byte_order_entry(tmp_path):
    """torch before 2.1 wrote none."""
    path = save(tmp_path / "a.pth", {"x": torch.ones(3)})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if not name.endswith("byteorder")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    same(load_torch_dict(path), {"x": torch.ones(3)})


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_layout_and_protocol(tmp_path, protocol):
    values = {
        "c": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["ab", "cde"]),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5),
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j]),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
    got = load_flame_pickle(tmp_path / "a.pkl")
    values["big"] = values["big"].astype(np.int32)
    same(got, values)


def test_python_2_text_and_array_bytes(tmp_path):
    """Python 2 writes array bytes and texts as 8-bit strings; numpy's names as written in FLAME's time."""
    raw = np.array([1.5, -2.0], "<f8").tobytes()
    program = (
        b"\x80\x02}U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(program)
    same(load_flame_pickle(tmp_path / "a.pkl"), {"x": np.array([1.5, -2.0])})


def recorded(name: str, state: Any) -> tuple[dict[str, type], Any]:
    cls = type(name.rpartition(".")[2], (), {})
    instance = cls()
    instance.__dict__.update(state)
    return {name: cls}, instance


def test_chumpy_selections_and_sparse_formats(tmp_path):
    from scipy.sparse import coo_matrix

    dense = np.array([[0, 2.0, 0], [1, 0, 3]])
    values: dict[str, Any] = {}
    names: dict[str, type] = {}
    for form, module in (("csc", "scipy.sparse.csc"), ("csr", "scipy.sparse._csr")):
        matrix = coo_matrix(dense).asformat(form)
        state = {"_shape": dense.shape, "data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
        more, values[form] = recorded(f"{module}.{form}_matrix", state)
        names |= more
    triples = coo_matrix(dense)
    more, values["coo"] = recorded(
        "scipy.sparse.coo.coo_matrix",
        {"shape": dense.shape, "data": triples.data, "row": triples.row, "col": triples.col},
    )
    names |= more
    more, values["select"] = recorded(
        "chumpy.reordering.Select", {"a": dense, "idxs": np.array([1, 5]), "preferred_shape": (2, 1)}
    )
    names |= more
    with pretend_modules(names):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol=2))
    got = load_flame_pickle(tmp_path / "a.pkl")
    for form in ("csc", "csr", "coo"):
        np.testing.assert_array_equal(got[form], dense)
    np.testing.assert_array_equal(got["select"], [[2.0], [3.0]])


def test_other_chumpy_expressions_are_refused_only_where_they_are_needed(tmp_path):
    names, product = recorded("chumpy.ch_ops.MatVecMult", {"mtx": 1})
    with pretend_modules(names):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"J": product, "f": 1}, protocol=2))
    assert load_flame_pickle(tmp_path / "a.pkl", keys=["f", "absent"]) == {"f": 1}
    with pytest.raises(DamagedFileError, match=r"a\.pkl: J: ChumpyOther cannot be read as data"):
        load_flame_pickle(tmp_path / "a.pkl")


def test_many_threads_read_at_once(tmp_path):
    """The loader's image threads read .frame files in parallel; nothing global may change meanwhile."""
    paths = [save(tmp_path / f"{k}.frame", {"k": np.full(50, k)}) for k in range(8)]
    wrong: list[int] = []

    def read(k: int) -> None:
        for _ in range(20):
            if not (load_torch_dict(paths[k])["k"] == k).all():
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- what is broken -------------------------------------------------------------------------------------------------


@ZIP
def test_tensors_outside_their_storage_are_refused(tmp_path, as_zip):
    path = save(tmp_path / "a.pth", {"x": torch.arange(200, dtype=torch.uint8)[150:160]}, as_zip)
    data = path.read_bytes()
    # BININT1 150 (offset) inside the pickle becomes 195: ten elements no longer fit into 200
    if as_zip:
        rewrite_pickle(path, lambda program: program.replace(b"K\x96K\x0a\x85", b"K\xc3K\x0a\x85"))
    else:
        path.write_bytes(data.replace(b"K\x96K\x0a\x85", b"K\xc3K\x0a\x85"))
    with pytest.raises(DamagedFileError, match=r"a\.pth: x: inconsistent TorchTensor"):
        load_torch_dict(path)


@ZIP
def test_truncated_files_are_named(tmp_path, as_zip):
    whole = save(tmp_path / "whole", frame_record() | {"t": torch.ones(50)}, as_zip).read_bytes()
    cut = tmp_path / "cut.frame"
    for size in [0, 1, 2, 10, *range(50, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match=r"cut\.frame"):
            load_torch_dict(cut)


def test_truncated_flame_files_are_named(tmp_path):
    whole = pickle.dumps({"f": np.arange(50), "s": "lbs"}, protocol=2)
    for size in range(len(whole)):
        (tmp_path / "cut.pkl").write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match=r"cut\.pkl: truncated or not a pickle"):
            load_flame_pickle(tmp_path / "cut.pkl")


def only_values_or_our_errors(load, path: Path) -> None:
    try:
        value = load(path)
    except (UnsafePickleError, DamagedFileError) as error:
        value = {"error": error}
        if path.name not in str(error):
            raise
    assert isinstance(value, dict)


@ZIP
def test_any_flipped_byte_gives_values_or_our_errors(tmp_path, as_zip):
    whole = bytearray(save(tmp_path / "whole", {"x": np.arange(4), "t": torch.ones(3)}, as_zip).read_bytes())
    for at in range(0, len(whole), 3):
        whole[at] ^= 0x15
        (tmp_path / "flipped.frame").write_bytes(whole)
        only_values_or_our_errors(load_torch_dict, tmp_path / "flipped.frame")
        whole[at] ^= 0x15


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.binary(max_size=60))
def test_any_bytes_give_values_or_our_errors(tmp_path, program):
    (tmp_path / "random.pkl").write_bytes(program)
    only_values_or_our_errors(load_flame_pickle, tmp_path / "random.pkl")
    only_values_or_our_errors(load_torch_dict, tmp_path / "random.pkl")


def test_things_that_are_no_dicts_or_no_torch_files(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DamagedFileError, match="wanted a pickled dict, got list"):
        load_flame_pickle(path)
    with pytest.raises(DamagedFileError, match="not a file of torch.save"):
        load_torch_dict(path)
    save(path, [1, 2])
    with pytest.raises(DamagedFileError, match="wanted a saved dict, got list"):
        load_torch_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(DamagedFileError, match="a zip file, but not one of torch.save"):
        load_torch_dict(path)
    with pytest.raises(FileNotFoundError):
        load_torch_dict(tmp_path / "none.frame")


def test_big_endian_and_inconsistent_archives(tmp_path):
    path = save(tmp_path / "a.pth", {"x": torch.ones(3)})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for name, data, message in (
        ("a/byteorder", b"big", "big-endian"),
        ("a/data/0", bytes(8), "storage 0 has 8 bytes, wanted 3 x torch.float32"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, old in entries.items():
                archive.writestr(entry, data if entry == name else old)
        with pytest.raises(DamagedFileError, match=message):
            load_torch_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", entries["a/data.pkl"])
    with pytest.raises(DamagedFileError, match="storage 0 is missing"):
        load_torch_dict(path)


def test_old_storage_views_and_big_endian_legacy_files(tmp_path):
    path = tmp_path / "a.pth"
    heads = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001)]
    path.write_bytes(b"".join([*heads, pickle.dumps({"little_endian": False}, protocol=2)]))
    with pytest.raises(DamagedFileError, match="big-endian"):
        load_torch_dict(path)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 3, ("1", 0, 3)) if isinstance(value, bytes) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"x": b""})
    path.write_bytes(b"".join([*heads, pickle.dumps({}, protocol=2), stream.getvalue()]))
    with pytest.raises(DamagedFileError, match="very old torch"):
        load_torch_dict(path)


def test_legacy_storages_cut_short(tmp_path):
    path = save(tmp_path / "a.pth", {"x": torch.ones(3)}, as_zip=False)
    whole = path.read_bytes()
    assert whole.endswith(struct.pack("<q3f", 3, 1, 1, 1))
    for size, message in ((-4, "truncated inside storage"), (-14, "truncated before storage")):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match=message):
            load_torch_dict(path)


def test_values_that_contain_themselves(tmp_path):
    loop: list[Any] = []
    loop.append(loop)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": loop}))
    with pytest.raises(DamagedFileError, match=r"a\.pkl: x: nested too deeply, or contains itself"):
        load_flame_pickle(tmp_path / "a.pkl")


def test_only_what_is_asked_for_is_looked_at(tmp_path):
    """A tracker's record may hold what its author needs besides."""
    stored = {"flame": {"exp": np.ones(2), "mode": Path("a")}, "options": threading.Event, "img_size": [4, 5]}
    path = save(tmp_path / "a.frame", stored)
    got = load_torch_dict(path, keys=["img_size", ("flame", "exp"), ("flame", "absent"), ("none", "x")])
    same(got, {"img_size": [4, 5], "flame": {"exp": np.ones(2)}})
    with pytest.raises(UnsafePickleError, match=r"a\.frame: flame: mode: refused the global pathlib"):
        load_torch_dict(path, keys=[("flame", "mode")])


def test_a_part_that_is_shared_is_built_once(tmp_path):
    array = np.ones(5)
    got = load_torch_dict(save(tmp_path / "a.frame", {"x": [array] * 1000}))
    assert all(item is got["x"][0] for item in got["x"])
