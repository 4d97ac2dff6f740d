"""The folders of the reference's viewer, blended by that viewer's own formulas."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from blendshape_ops import matrix_to_quaternion, polar3, quaternion_product

from arguments.export_settings import ExportSettings
from exporting import reference_viewer
from exporting.reference_viewer import export_folders
from player import Player
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH
from tests.player_subject import CPU, FRAMES, lively_player
from utils.atomic import WriteError

FACE_FILES = {"pos", "shs", "scale", "rot", "opacity", "xyz_t", "shs_t", "scale_t", "rot_t", "opacity_t", "pos_t", "W",
              "eyelid"}


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player(correctives=True)


@pytest.fixture(scope="module")
def folder(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    chunk, reference_viewer.CHUNK = reference_viewer.CHUNK, 150  # several parts of the 400
    try:
        return export_folders(player, ExportSettings(tmp_path_factory.mktemp("run"), format="npy"))
    finally:
        reference_viewer.CHUNK = chunk


def load(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, allow_pickle=False) for path in folder.iterdir()}


def test_folders_files_and_shapes(player: Player, folder: Path) -> None:
    parts = {"fix_chkpnt40000": FACE, "mouth0_chkpnt40000": UPPER_TEETH, "mouth1_chkpnt40000": LOWER_TEETH}
    assert {path.name for path in folder.iterdir()} == set(parts)
    K = player.num_expressions
    for name, part in parts.items():
        arrays, count = load(folder / name), int((player.avatar.part == part).sum())
        assert set(arrays) == (FACE_FILES if part == FACE else {"pos", "shs", "scale", "rot", "opacity"})
        shapes = {
            "pos": (count, 3), "shs": (count, 16, 3), "scale": (count, 3), "rot": (count, 4), "opacity": (count, 1),
            "xyz_t": (count, 3, K), "shs_t": (count, 16, 3, K), "scale_t": (count, 3, K), "rot_t": (count, 4, K),
            "opacity_t": (count, 1, K), "pos_t": (36, count, 3), "W": (count, 5), "eyelid": (count, 3, 2),
        }
        assert {n: a.shape for n, a in arrays.items()} == {n: shapes[n] for n in arrays}
        assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("frame", range(FRAMES))
def test_blended_by_the_viewers_formulas_it_is_the_players_face(player: Player, folder: Path, frame: int) -> None:
    a = {name: torch.from_numpy(array).double() for name, array in load(folder / "fix_chkpnt40000").items()}
    codes = dataclasses.replace(player.codes_of(frame), sway=None)  # at the mean pose: the viewer knows no other
    rig = player.rig.with_codes(codes)
    beta = rig.beta[0].double()
    x = a["pos"] + a["xyz_t"] @ beta + torch.einsum("f,fnc->nc", rig.posed.pose_feature[0].double(), a["pos_t"])
    T = torch.einsum("nj,jab->nab", a["W"], rig.bones[0, :5].double())
    means = torch.einsum("nab,nb->na", T[..., :3], x) + T[..., 3] + a["eyelid"] @ codes.eyelids[0].double()
    quats = torch.nn.functional.normalize(a["rot"] + a["rot_t"] @ beta, dim=1)
    found = {"means": means, "quats": quaternion_product(matrix_to_quaternion(polar3(T[..., :3])), quats),
             "scales": (a["scale"] + a["scale_t"] @ beta).exp(),
             "opacities": (a["opacity"] + a["opacity_t"] @ beta).sigmoid()[:, 0]}
    posed, face = player.pose(codes, torch.zeros(1, 3)), player.avatar.part == FACE
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(posed, name)[0][face].double(), atol=2e-6, rtol=1e-5, msg=name)
    dense = player.avatar.differences.to("cpu")
    wanted = player.avatar.neutral.detach()[:, 11:59].double().index_add(
        0, dense.gaussian.long(), (dense.mask * beta[dense.expression.long()].float())[:, None].double()
        * dense.values.double()[:, 11:59])
    torch.testing.assert_close(a["shs"] + a["shs_t"] @ beta, wanted[face].view(-1, 16, 3), atol=1e-6, rtol=0)


def test_gaussians_that_are_not_finite_are_left_out(player: Player, tmp_path: Path) -> None:
    neutral = player.avatar.neutral.detach().clone()
    neutral[3, 20] = float("nan")
    avatar = dataclasses.replace(player.avatar, neutral=neutral)
    broken = Player(player.head, avatar, player.clip, 3, player.num_expressions, CPU, "broken")
    arrays = load(export_folders(broken, ExportSettings(tmp_path, format="npy")) / "fix_chkpnt40000")
    face = int((avatar.part == FACE).sum())
    assert {len(arrays["pos"]), len(arrays["shs_t"]), arrays["pos_t"].shape[1]} == {face - 1}


def test_an_existing_folder_is_not_overwritten(player: Player, tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    (tmp_path / "npy" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"--output: wanted a new or empty folder, got .*npy"):
        export_folders(player, ExportSettings(tmp_path, format="npy", output=tmp_path / "npy"))
    assert (tmp_path / "npy" / "mine.txt").read_text() == "x"


def test_a_refusing_disk_is_reported_and_leaves_nothing(player: Player, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"npy: could not be written"):
        export_folders(player, ExportSettings(tmp_path, format="npy", output=tmp_path / "file" / "npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pose_makes_no_sense(player: Player, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--frames: --format npy holds the avatar, not a pose"):
        export_folders(player, ExportSettings(tmp_path, format="npy", frames="0:2"))
