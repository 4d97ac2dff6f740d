"""Loading heads: the shipped one, FLAME-like pickles with chumpy and SciPy objects inside, and everything broken."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from flame import Head, check_head_matches, load_head, pose_head
from flame.load import OPEN_HEAD
from tests.heads import random_codes, random_head, write_eyelids, write_flame_pickle, write_flame_with_teeth
from utils.safe_pickle import DamagedFileError, UnsafePickleError


@pytest.fixture(scope="module")
def open_head():
    return load_head("open")


@pytest.fixture(scope="module")
def open_arrays():
    with np.load(OPEN_HEAD) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def flame_file(tmp_path_factory, open_head):
    """The open head as a FLAME pickle, with eyelid files beside it."""
    folder = tmp_path_factory.mktemp("flame")
    write_eyelids(folder, open_head)
    return write_flame_pickle(folder / "generic_model.pkl", open_head)


def test_open_head_is_complete(open_head):
    assert (open_head.n_vertices, open_head.n_faces, len(open_head.parents)) == (4868, 9592, 5)
    assert (open_head.n_shape, open_head.n_expression) == (100, 52)
    assert open_head.parents == (-1, 0, 1, 1, 1)
    assert open_head.expression_names[23] == "jawOpen"
    assert not open_head.has_pose_correctives
    for item in dataclasses.fields(open_head):
        value = getattr(open_head, item.name)
        if isinstance(value, torch.Tensor) and item.name != "faces":
            assert value.dtype == torch.float32, item.name
    # jawOpen carries the jaw rotation that its sculpted shape lost, 16.5 degrees downwards about x
    turns = open_head.expression_jaw.norm(dim=1)
    assert turns.nonzero().flatten().tolist() == [
        open_head.expression_names.index(n) for n in ("jawLeft", "jawOpen", "jawRight")
    ]
    assert open_head.expression_jaw[23, 0] == pytest.approx(0.288, abs=1e-3)


def test_flame_pickle_gives_the_same_head(open_head, flame_file):
    """Through 400 columns, chumpy and sparse objects, uint32 parents and latin1; unused columns are zeros."""
    head = load_head(flame_file)
    assert (head.name, head.n_shape, head.n_expression) == ("generic_model", 300, 100)
    assert head.expression_names[:2] == ("exp000", "exp001")
    for name in ("v_template", "faces", "joint_regressor", "weights", "eyelids", "pose_dirs"):
        torch.testing.assert_close(getattr(head, name), getattr(open_head, name), rtol=0, atol=0)
    assert torch.equal(head.shape_dirs[:, :, :100], open_head.shape_dirs)
    assert torch.equal(head.expression_dirs[:, :, :52], open_head.expression_dirs)
    assert not head.shape_dirs[:, :, 100:].any()
    assert not head.expression_dirs[:, :, 52:].any()
    assert head.parents == open_head.parents


def test_flame_pickle_poses_like_the_open_head(open_head, flame_file):
    head = load_head(flame_file)
    codes = random_codes(open_head, 2)
    codes["expression"] = codes["expression"].abs() * 0.3
    wide = codes | {
        "shape": torch.nn.functional.pad(codes["shape"], (0, 200)),
        "expression": torch.nn.functional.pad(codes["expression"], (0, 48)),
    }
    a, b = pose_head(open_head, **codes), pose_head(head, **wide)
    torch.testing.assert_close(a.vertices, b.vertices, rtol=0, atol=1e-12)
    # another anchor (derived instead of stored) on the same rigid skull
    torch.testing.assert_close(a.head_rigid, b.head_rigid, rtol=0, atol=1e-6)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_every_protocol_loads(tmp_path, protocol, monkeypatch):
    """Protocols 0 and 1 create objects through copyreg, 2 and later through NEWOBJ."""
    head = random_head(n_vertices=30)
    file = write_flame_pickle(tmp_path / "a.pkl", head, protocol=protocol)
    from utils.safe_pickle import load_flame_pickle

    data = load_flame_pickle(file, keys=("v_template", "shapedirs", "J_regressor", "bs_style", "kintree_table"))
    np.testing.assert_array_equal(data["v_template"], head.v_template.double().numpy())
    np.testing.assert_array_equal(data["shapedirs"][:, :, 300:304], head.expression_dirs.double().numpy())
    np.testing.assert_array_equal(data["J_regressor"], head.joint_regressor.double().numpy())
    assert data["bs_style"] == "lbs"
    assert data["kintree_table"][0, 0] == 2**32 - 1


def test_flame_loads_where_chumpy_and_scipy_sparse_cannot_be_imported(flame_file):
    """The pickle reader must not need the packages that the pickle names."""
    program = (
        "import sys; sys.modules['chumpy'] = None; sys.modules['scipy'] = None\n"
        "from utils.safe_pickle import load_flame_pickle\n"
        "data = load_flame_pickle(sys.argv[1], keys=('v_template', 'J_regressor'))\n"
        "print(data['v_template'].shape, data['J_regressor'].shape)"
    )
    root = OPEN_HEAD.parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(flame_file)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "(4868, 3) (5, 4868)", done.stderr


def test_flame_without_eyelid_files_says_so(tmp_path, open_head, caplog):
    file = write_flame_pickle(tmp_path / "model.pkl", open_head)
    with caplog.at_level(logging.WARNING):
        head = load_head(file)
        load_head(file)
    assert [record.getMessage().count("no l_eyelid.npy") for record in caplog.records] == [1]  # said once
    assert "no mediapipe_landmark_embedding.npz" in caplog.text
    assert not head.eyelids.any()


def test_a_name_chooses_the_version_of_flame(tmp_path, open_head, monkeypatch):
    monkeypatch.setattr("flame.load.FLAME_FOLDER", tmp_path)
    write_flame_pickle(tmp_path / "generic_model.pkl", open_head)
    assert load_head("flame").name == load_head("flame2020").name == "generic_model"
    with pytest.raises(FileNotFoundError, match=r"no FLAME2023 model in data/FLAME \(looked for flame2023\.pkl"):
        load_head("flame2023")
    write_flame_pickle(tmp_path / "flame2023_Open.pkl", open_head)
    assert load_head("flame2023").name == "flame2023_Open"
    assert load_head("flame").name == "generic_model"


def test_flame_with_appended_teeth_loads(tmp_path, open_head, flame_file):
    """120 vertices in two rows behind the lips, as GaussianAvatars appends; eyelid files know only those before."""
    write_eyelids(tmp_path, open_head)
    head, plain = load_head(write_flame_with_teeth(tmp_path / "teeth.pkl", open_head)), load_head(flame_file)
    assert head.n_vertices == plain.n_vertices + 120
    torch.testing.assert_close(head.eyelids[:, :plain.n_vertices], plain.eyelids, rtol=0, atol=0)
    assert not head.eyelids[:, plain.n_vertices:].any()
    torch.testing.assert_close(head.mouth.center, plain.mouth.center, rtol=0, atol=1e-6)
    for name in ("back_of_head", "lower_neck"):
        assert torch.equal(head.regions[name], plain.regions[name]), name


def test_a_static_offset_moves_the_template_and_its_joints():
    head = random_head()
    offset = 0.01 * torch.randn(head.n_vertices + 120, 3, generator=torch.Generator().manual_seed(0))
    moved = head.with_offset(offset)  # what belongs to appended teeth is left out
    torch.testing.assert_close(moved.v_template, head.v_template + offset[:head.n_vertices], rtol=0, atol=0)
    codes = random_codes(head, 2, torch.float32)
    joints = pose_head(moved, **codes).joints - pose_head(head, **codes).joints
    expected = (head.joint_regressor @ offset[:head.n_vertices]).expand(2, -1, -1)
    torch.testing.assert_close(joints, expected, rtol=0, atol=1e-6)  # float32 sums of numbers around 1
    with pytest.raises(ValueError, match=r"random: a static offset \[40, 3\] is wanted, got \[39, 3\]"):
        head.with_offset(offset[:39])


def test_wrong_eyelid_files_are_named(tmp_path, open_head):
    file = write_flame_pickle(tmp_path / "model.pkl", open_head)
    np.save(tmp_path / "l_eyelid.npy", np.zeros((5023, 3)))
    np.save(tmp_path / "r_eyelid.npy", np.zeros((5023, 3)))
    with pytest.raises(ValueError, match=r"l_eyelid.npy: shape \[5023, 3\], wanted \[4868, 3\]"):
        load_head(file)
    (tmp_path / "l_eyelid.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"l_eyelid.npy: not a plain array"):
        load_head(file)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"posedirs": None}, "not a head model, it lacks posedirs"),
        ({"weights": np.zeros((3, 5))}, r"weights has shape \[3, 5\], wanted \[30, 5\]"),
        ({"shapedirs": np.zeros((30, 3, 10))}, r"shapedirs has shape \[30, 3, 10\], wanted \[V, 3, 300 identities"),
        ({"kintree_table": np.zeros((2, 4))}, r"kintree_table has shape \[2, 4\], wanted \[2, 5\]"),
        ({"f": np.array([[0, 1, 30]])}, r"f names vertices outside 0\.\.29"),
        ({"v_template": "none"}, "v_template is not an array of numbers"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_flame_pickles_with_wrong_contents_are_refused(tmp_path, changes, message):
    file = write_flame_pickle(tmp_path / "model.pkl", random_head(n_vertices=30), **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_head(file)
    assert str(file) in str(caught.value)


class _Touch:
    def __reduce__(self):
        return os.system, ("echo > executed",)


def test_malicious_flame_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = load_head("open")
    file = write_flame_pickle(tmp_path / "model.pkl", head, extra=_Touch())
    assert load_head(file).n_vertices == head.n_vertices, "nobody reads that key"
    file = write_flame_pickle(tmp_path / "model.pkl", head, weights=_Touch())
    with pytest.raises(UnsafePickleError, match=r"model\.pkl: weights: refused the global (posix|nt)\.system"):
        load_head(file)
    assert not (tmp_path / "executed").exists()


def test_a_region_outside_the_mesh_names_the_file(tmp_path, open_arrays):
    np.savez(tmp_path / "head.npz", **open_arrays | {"region_back_of_head": np.array([0, 10**6])})
    with pytest.raises(ValueError, match=r"head\.npz: head: region back_of_head holds an index outside"):
        load_head(tmp_path / "head.npz")


def test_files_that_are_no_heads(tmp_path, open_arrays):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl: no such file"):
        load_head(tmp_path / "none.pkl")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name}: a folder; a head is 'open', an \.npz or a \.pkl"):
        load_head(tmp_path)
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(ValueError, match=r"a\.obj: a head model is a file that ends in \.npz or \.pkl, got '\.obj'"):
        load_head(tmp_path / "a.obj")
    whole = OPEN_HEAD.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.npz: cannot be read as \.npz"):
            load_head(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: not a head model, it lacks v_template, f, "):
        load_head(tmp_path / "other.npz")
    (tmp_path / "cut.pkl").write_bytes(b"\x80\x02}")
    with pytest.raises(DamagedFileError, match=r"cut\.pkl: truncated"):
        load_head(tmp_path / "cut.pkl")


def test_npz_of_another_size_loads(tmp_path, open_arrays):
    """Fewer identities and expressions, no labels at all: the derived regions take their place."""
    keep = [*range(7), *range(100, 152, 2)]
    arrays = {
        key: value for key, value in open_arrays.items() if not key.startswith(("region_", "part_names", "face_p"))
    }
    arrays |= {"shapedirs": arrays["shapedirs"][:, :, keep], "n_shape": 7, "exp_names": arrays["exp_names"][::2]}
    np.savez(tmp_path / "small.npz", **arrays)
    head = load_head(tmp_path / "small.npz")
    assert (head.n_shape, head.n_expression) == (7, 26)
    assert len(head.regions["surface_faces"]) == head.n_faces
    assert "upper_teeth_faces" not in head.regions


def test_wrong_head_for_the_data_is_detected(open_head):
    check_head_matches(open_head, 4868, 9592, "canonical.obj")
    with pytest.raises(
        ValueError,
        match=r"canonical\.obj: tracked with a head of 5023 vertices and 9976 triangles.*'open_head' has 4868",
    ):
        check_head_matches(open_head, 5023, 9976, "canonical.obj")


def test_moving_a_head_changes_every_tensor_and_nothing_else(open_head):
    double = open_head.to(dtype=torch.float64)
    assert double.v_template.dtype == double.mouth.center.dtype == torch.float64
    assert double.faces.dtype == double.regions["face"].dtype == torch.int64
    assert double.to(dtype=torch.float32).v_template.equal(open_head.v_template)
    assert open_head.to(dtype=torch.float32) is open_head


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eyelids": torch.zeros(2, 5, 3)}, r"random: eyelids has shape \[2, 5, 3\], wanted \[2, 40, 3\]"),
        ({"parents": (-1, 0, 1, 1)}, "wanted 5 joints .*got 4"),
        ({"parents": (-1, 2, 1, 1, 1)}, "not a tree"),
        ({"weights": torch.full((40, 5), float("nan"))}, "weights holds a number that is not finite"),
        ({"faces": torch.tensor([[0, 1, 40]])}, r"faces name vertices outside 0\.\.39"),
        ({"regions": {"face": torch.tensor([40])}}, r"region face holds an index outside 0\.\.39"),
        ({"regions": {"surface_faces": torch.tensor([50])}}, r"region surface_faces holds an index outside 0\.\.49"),
        ({"expression_names": ("a",)}, "1 expression names for 4 expressions"),
    ],
)
def test_inconsistent_heads_cannot_be_made(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_head(), **changes)


def test_a_head_is_frozen(open_head):
    assert isinstance(open_head, Head)
    with pytest.raises(dataclasses.FrozenInstanceError):
        open_head.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"\n<!DOCTYPE html>\n<html><title>Login</title></html>", "it is a web page: a login or error page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "it is a Git LFS pointer"),
    (b"\x1f\x8b\x08\0", "it is a gzip archive"),
])
def test_a_file_that_is_something_else_is_named(tmp_path, content, message):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"a\.pkl: truncated or not a pickle .*{message}"):
        load_head(tmp_path / "a.pkl")


def test_archives_and_text_copies_of_a_flame_model_are_named(tmp_path, open_head):
    model = write_flame_pickle(tmp_path / "model.pkl", open_head, protocol=0)
    (tmp_path / "crlf.pkl").write_bytes(model.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(DamagedFileError, match=r"crlf\.pkl: .*every line end in it is CR LF"):
        load_head(tmp_path / "crlf.pkl")
    for hour in (12, 1):  # the second one's bytes are a whole instruction of a pickle
        with zipfile.ZipFile(tmp_path / "zip.pkl", "w") as archive:
            archive.writestr(zipfile.ZipInfo("FLAME2020/generic_model.pkl", (2026, 3, 3, hour, 19, 0)),
                             model.read_bytes())
        with pytest.raises(DamagedFileError, match=r"zip archive: unpack it and use FLAME2020/generic_model\.pkl"):
            load_head(tmp_path / "zip.pkl")
    torch.save({"f": 1}, tmp_path / "torch.pkl")
    with pytest.raises(DamagedFileError, match="written by torch.save: save the dict with pickle.dump"):
        load_head(tmp_path / "torch.pkl")


def test_without_a_flame_model_the_open_head_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("flame.load.FLAME_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no FLAME model in data/FLAME .*--head open"):
        load_head("flame")
