"""Models of the reference: read by the documented layout, posed by its formulas, drawn as what they were made from."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blendshape_ops import matrix_to_quaternion, polar3, quaternion_product, sh_basis
from torch import Tensor

import export
from arguments.export_settings import ExportSettings
from exporting.compact import export_avatar
from exporting.reference_viewer import export_folders
from flame import pose_head
from player import Player, open_player
from player.reference_model import load_reference_model, reference_iterations
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH
from scene.checkpoint import CheckpointError
from tests.player_subject import CPU, EXPRESSIONS, FRAMES, lively_player
from tests.reference_folder import write_data_set, write_reference_folder
from utils.safe_pickle import DamagedFileError, UnsafePickleError, load_numpy_dict, load_torch_tuple

ROOT = Path(__file__).resolve().parents[1]
CENTER = torch.tensor([[0.2, 0.1, 0.6]])
JAW = torch.tensor([0.0130787707, 0.0426467828, 0.944269622, 0.0, 0.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def original() -> Player:
    """The subject without neck codes or sway, with the reference's skinning of the lower teeth."""
    player = lively_player(correctives=True)
    clip = dataclasses.replace(player.clip, codes=dataclasses.replace(player.clip.codes, neck=None, sway=None))
    weights = JAW.clone()
    weights[0] += 1 - JAW.sum()
    head = dataclasses.replace(player.head, mouth=dataclasses.replace(player.head.mouth, lower_weights=weights.float()))
    return Player(head, dataclasses.replace(player.avatar, sway=None), clip, 3, EXPRESSIONS, CPU, "original")


@pytest.fixture(scope="module")
def data(original: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("reference") / "data", original)


@pytest.fixture(scope="module")
def folder(original: Player, data: Path) -> Path:
    return write_reference_folder(data.parent / "same", original, data)


@pytest.fixture(scope="module")
def peculiar(original: Player, data: Path) -> Path:
    """As the reference writes them: pose correctives summed over the corners, three times too strong."""
    return write_reference_folder(data.parent / "peculiar", original, data, correctives=3.0)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Player:
    return open_player(folder, CPU)


@pytest.fixture(scope="module")
def strong(peculiar: Path) -> Player:
    return open_player(peculiar, CPU)


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-20)


# Pictures and formulas


def test_pictures_are_those_of_the_avatar_it_was_made_from(original: Player, opened: Player) -> None:
    assert opened.avatar.count == original.avatar.count
    assert opened.num_expressions == EXPRESSIONS
    frames = range(FRAMES)
    wanted = original.render(original.codes_of(frames), original.cameras_of(frames)).image
    found = opened.render(opened.codes_of(frames), opened.cameras_of(frames)).image
    assert psnr(found, wanted) > 80  # the same numbers summed in another order, float32


def composition(folder: Path, player: Player, frame: int) -> dict[str, Tensor]:
    """Sections 5 and 6 of docs/method.md, written out in double from the files themselves."""
    numbers: Any = torch.load(folder / "fix_chkpnt40000.pth", weights_only=False)[0]
    constants = {name: torch.from_numpy(value).double()
                 for name, value in np.load(folder / "acc40000.npy", allow_pickle=True).item().items()}
    codes = player.codes_of(frame)
    posed = pose_head(player.head, codes.shape, codes.expression, codes.jaw, codes.eyes, codes.eyelids)
    beta, lids = codes.expression[0, :EXPRESSIONS].double(), codes.eyelids[0].double()
    A, phi = posed.joint_transforms[0].double(), posed.pose_feature[0].double()
    x, dc, rest, log_scale, q, logit = (p.detach().double() for p in numbers[1:7])
    dx, dh, ds, dq, do = (p.detach().double() for p in numbers[10:15])
    M = beta * constants["expr_mask_tensor"]
    x = x + constants["init_xyz"] @ beta + torch.einsum("nck,nk->nc", dx, M)
    q = q + constants["init_rot"] @ beta + torch.einsum("nck,nk->nc", dq, M)
    q = q / q.norm(dim=1, keepdim=True)
    h = torch.cat([dc, rest], dim=1) + constants["init_sh"] @ beta + torch.einsum("njck,nk->njc", dh, M)
    x = x + torch.einsum("f,fnc->nc", phi, constants["pose_blendshape"])
    T = torch.einsum("nj,jab->nab", constants["W"], A)
    y = (T[..., :3] @ x[..., None])[..., 0] + T[..., 3] + constants["eye_blendshape"] @ lids
    N = polar3(T[..., :3])
    found = [(y, quaternion_product(matrix_to_quaternion(N), q), (log_scale + torch.einsum("nck,nk->nc", ds, M)).exp(),
              (logit + torch.einsum("nck,nk->nc", do, M)).sigmoid()[:, 0], N, h)]
    for name, moved in (("mouth0", posed.head_rigid[0].double()), ("mouth1", None)):
        x, dc, rest, log_scale, q, logit = (
            p.detach().double() for p in torch.load(folder / f"{name}_chkpnt40000.pth", weights_only=False)[0][1:7])
        if moved is None:  # T = I + J_w - J_w0, every rest transform being the identity
            moved = torch.einsum("j,jab->ab", JAW, A) + (1 - JAW.sum()) * torch.eye(3, 4, dtype=torch.float64)
        N = polar3(moved[:, :3]).expand(len(x), 3, 3)
        q = quaternion_product(matrix_to_quaternion(N), q / q.norm(dim=1, keepdim=True))
        found.append((x @ moved[:, :3].T + moved[:, 3], q, log_scale.exp(), logit.sigmoid()[:, 0], N,
                      torch.cat([dc, rest], dim=1)))
    y, q, s, o, N, h = (torch.cat(parts) for parts in zip(*found, strict=True))
    view = (y - CENTER) / (y - CENTER).norm(dim=1, keepdim=True)
    basis = sh_basis(torch.einsum("nba,nb->na", N, view), 3)
    return {"means": y, "quats": q, "scales": s, "opacities": o,
            "colors": (0.5 + torch.einsum("nj,njc->nc", basis, h)).clamp(min=0)}


@pytest.mark.parametrize("frame", [0, 3])
def test_the_reference_s_formulas_are_followed(strong: Player, peculiar: Path, frame: int) -> None:
    posed, wanted = strong.pose(strong.codes_of(frame), CENTER), composition(peculiar, strong, frame)
    for name, value in wanted.items():
        # sums of a dozen float32 terms of order 1; metres are a tenth of that
        tolerance = 1e-6 if name == "means" else 2e-5
        torch.testing.assert_close(getattr(posed, name)[0].double(), value, atol=tolerance, rtol=1e-5, msg=name)


def test_correctives_are_used_as_stored(opened: Player, strong: Player) -> None:
    means = [p.pose(p.codes_of(2), CENTER).means[0] for p in (opened, strong)]
    moved = (means[0] - means[1]).norm(dim=1)
    assert not opened.head.has_pose_correctives  # they are the files' alone
    assert moved[opened.avatar.part == FACE].max() > 1e-5
    assert moved[opened.avatar.part != FACE].max() == 0


def test_codes_have_no_limits(opened: Player) -> None:
    codes = opened.codes_of(0)
    wild = dataclasses.replace(codes, expression=5 * codes.expression)
    logits = [torch.logit(opened.pose(c, CENTER).opacities[0].double()) for c in (codes, wild, opened.neutral_codes())]
    change, far = logits[0] - logits[2], logits[1] - logits[2]
    inside = (change.abs() > 1e-3) & (far.abs() < 8)  # of saturated opacities nothing is left
    torch.testing.assert_close(far[inside], 5 * change[inside], rtol=0.02, atol=0.02)


def test_parts_are_face_upper_and_lower_teeth(original: Player, opened: Player) -> None:
    assert opened.avatar.part_counts() == original.avatar.part_counts()
    assert opened.avatar.part.unique_consecutive().tolist() == [FACE, UPPER_TEETH, LOWER_TEETH]


def test_exports_of_an_imported_model(opened: Player, folder: Path, tmp_path: Path) -> None:
    """Its own .npy arrays come back as they were stored, and the compact file holds it."""
    export_folders(opened, ExportSettings(tmp_path, format="npy", output=tmp_path / "npy"))
    stored, face = load_numpy_dict(folder / "acc40000.npy"), tmp_path / "npy" / "fix_chkpnt40000"
    dx = torch.load(folder / "fix_chkpnt40000.pth", weights_only=False)[0][10].detach().numpy()
    np.testing.assert_array_equal(np.load(face / "pos_t.npy"), stored["pose_blendshape"])
    np.testing.assert_array_equal(np.load(face / "eyelid.npy"), stored["eye_blendshape"])
    np.testing.assert_array_equal(np.load(face / "W.npy"), stored["W"])
    wanted = stored["expr_mask_tensor"][:, None] * dx + stored["init_xyz"]
    np.testing.assert_allclose(np.load(face / "xyz_t.npy"), wanted, atol=1e-8)
    assert export_avatar(opened, ExportSettings(tmp_path, output=tmp_path / "a.safetensors")).stat().st_size > 1000


# Commands


def run_export(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
    export.main()


def test_test_py_and_export_py_open_it(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    (copy / "cfg_args").unlink()
    arguments = ["-m", str(copy), "-s", str(data), "--split", "all", "--video", "False", "--report", "False",
                 "--lpips_weights", str(tmp_path), "--pictures", "selected", "--device", "cpu"]
    tested = subprocess.run([sys.executable, "test.py", *arguments], cwd=ROOT, capture_output=True, text=True,
                            check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert tested.returncode == 0, tested.stderr
    assert "iteration 40000" in tested.stderr
    score = float(tested.stdout.split("all, whole frame, 5 frames: psnr ")[1].split(",")[0])
    assert score > 45  # the data set's pictures are this avatar's, rounded to 8 bits
    run_export(monkeypatch, str(copy), "-s", str(data), "--frame", "1", "--device", "cpu")
    assert (copy / "export" / "frame_00001.ply").is_file()
    with pytest.raises(SystemExit, match=r"export\.py: .*cfg_args: not found; it says where the data set is"):
        run_export(monkeypatch, str(copy), "--device", "cpu")


def test_export_py_refuses_what_is_no_avatar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"export\.py: .*nothing: no such folder"):
        run_export(monkeypatch, str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match=r"export\.py: .*config\.json"):
        run_export(monkeypatch, str(tmp_path))
    with pytest.raises(SystemExit, match="unknown flag --formt. Did you mean --format"):
        run_export(monkeypatch, str(tmp_path), "--formt", "ply")


# What is missing, damaged or malicious


def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.mark.parametrize("name", ["acc40000.npy", "mouth0_chkpnt40000.pth", "mouth1_chkpnt40000.pth"])
def test_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    model = broken(folder, tmp_path)
    (model / name).unlink()
    with pytest.raises(CheckpointError, match=rf"model: {name} missing; a model of the reference has"):
        open_player(model, CPU)


@pytest.mark.parametrize("name", ["fix_chkpnt40000.pth", "acc40000.npy", "mouth1_chkpnt40000.pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.6])
def test_truncated_file_is_named(folder: Path, tmp_path: Path, name: str, keep: float) -> None:
    model = broken(folder, tmp_path)
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(DamagedFileError, match=name):
        open_player(model, CPU)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def test_malicious_files_run_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = broken(folder, tmp_path)
    torch.save(((*[Malicious()] * 19,), 40_000), model / "fix_chkpnt40000.pth")
    refused = r"fix_chkpnt40000\.pth: entry 0: refused the global (posix|nt)\.system"
    with pytest.raises(UnsafePickleError, match=refused):
        open_player(model, CPU)
    shutil.copy(folder / "fix_chkpnt40000.pth", model)
    np.save(model / "acc40000.npy", {"W": Malicious()}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(UnsafePickleError, match=r"acc40000\.npy: refused the global (posix|nt)\.system"):
        open_player(model, CPU)
    (model / "cfg_args").write_text("Namespace(source_path=__import__('os').system('touch pwned'))")
    shutil.copy(folder / "acc40000.npy", model)
    with pytest.raises(CheckpointError, match=r"cfg_args: names no source_path"):
        open_player(model, CPU)
    assert not (tmp_path / "pwned").exists()


def rewritten(model: Path, entry: int, value: Any) -> None:
    """Replace one entry of the face checkpoint."""
    entries, iteration = torch.load(model / "fix_chkpnt40000.pth", weights_only=False)
    torch.save(((*entries[:entry], value, *entries[entry + 1:]), iteration), model / "fix_chkpnt40000.pth")


@pytest.mark.parametrize(("entry", "value", "message"), [
    (0, 7, r"entry 0 \(active degree\): wanted 0 to 3, got 7"),
    (1, torch.zeros(3, 2), r"entry 1 \(positions\): wanted floating numbers \[any, 3\], got torch.float32 \[3, 2\]"),
    (2, torch.zeros(3, 1, 3), r"entry 2 \(harmonics 0\): wanted floating numbers \[\d+, 1, 3\], got"),
    (4, "far", r"entry 4 \(scales\): wanted .* got str"),
    (6, None, r"entry 6 \(opacities\): wanted .* got NoneType"),
    (11, torch.zeros(3, 16, 3, 50), r"entry 11 \(harmonics differences\): wanted floating numbers"),
])
def test_wrong_entries_are_named(folder: Path, tmp_path: Path, entry: int, value: Any, message: str) -> None:
    model = broken(folder, tmp_path)
    rewritten(model, entry, value)
    with pytest.raises(CheckpointError, match=message):
        open_player(model, CPU)


def test_wrong_constants_are_named(folder: Path, tmp_path: Path) -> None:
    model = broken(folder, tmp_path)
    stored = load_numpy_dict(model / "acc40000.npy")
    np.save(model / "acc40000.npy", stored | {"W": stored["W"][:, :4]}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"acc40000\.npy: wanted one array W of shape \[\d+, 5\], found 0 among"):
        open_player(model, CPU)
    turned = {**stored, "init_sh": stored["init_sh"] + 1}
    np.save(model / "acc40000.npy", turned, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"init_sh\) are not zero"):
        open_player(model, CPU)


def test_other_iterations_and_other_files(folder: Path, tmp_path: Path) -> None:
    assert reference_iterations(folder) == [40_000]
    assert reference_iterations(tmp_path) == reference_iterations(tmp_path / "nothing") == []
    with pytest.raises(CheckpointError, match=r"wanted fix_chkpnt7\.pth, found iterations \[40000\]"):
        load_reference_model(folder, 7)


def test_missing_data_set_and_odd_settings(folder: Path, tmp_path: Path) -> None:
    model = broken(folder, tmp_path)
    (model / "cfg_args").write_text("Namespace(source_path='gone', use_nerfBS=True)")
    assert load_reference_model(model).data.use_nerfBS
    with pytest.raises(ValueError, match=r"codes and cameras of a model of the reference are in its data set, .*gone"):
        open_player(model, CPU)
    (model / "cfg_args").write_text("Namespace(")
    with pytest.raises(CheckpointError, match=r"cfg_args: wanted the text of an argument namespace"):
        open_player(model, CPU)


# The readers of utils.safe_pickle


def test_constants_may_be_tensors_or_a_plain_pickle(tmp_path: Path) -> None:
    """numpy.save of a dict of tensors nests each storage as a file of torch's own."""
    values = {"a": torch.arange(6.0).reshape(2, 3).T, "b": np.arange(3)}
    np.save(tmp_path / "a.npy", values, allow_pickle=True)  # type: ignore[arg-type]
    (tmp_path / "b.npy").write_bytes(pickle.dumps(values))
    for name in ("a.npy", "b.npy"):
        found = load_numpy_dict(tmp_path / name)
        assert torch.equal(found["a"], values["a"])  # type: ignore[arg-type]
        np.testing.assert_array_equal(found["b"], values["b"])


def test_nested_storages_run_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Malicious(), buffer, _use_new_zipfile_serialization=False)

    class Forged:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (_Bytes(buffer.getvalue()), 0, (2,), (1,), False, {})

    (tmp_path / "a.npy").write_bytes(pickle.dumps({"a": Forged()}))
    with pytest.raises(UnsafePickleError, match=r"a\.npy: refused the global (posix|nt)\.system"):
        load_numpy_dict(tmp_path / "a.npy")


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.data,)


@pytest.mark.parametrize("value", [{"a": 1}, ((1, 2), 3), [1, 2, 3]])
def test_another_structure_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(DamagedFileError, match=r"a\.pth: wanted a saved pair \(tuple of 19 values, iteration\), got"):
        load_torch_tuple(tmp_path / "a.pth", 19, [0])


def test_an_array_is_no_dict(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(DamagedFileError, match=r"a\.npy: wanted a saved dict, got Ndarray"):
        load_numpy_dict(tmp_path / "a.npy")
