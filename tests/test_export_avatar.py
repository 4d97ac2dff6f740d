"""The compact avatar file, posed by the NumPy loader and by our own operation from the same tables."""

from __future__ import annotations

import ast
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blendshape_ops import WIDTH, Binding, Differences, Drive, Posed, blend_pose_color, limit_codes
from safetensors import safe_open
from safetensors.numpy import load_file

from arguments.export_settings import ExportSettings
from exporting.compact import INVISIBLE, compact_tables, export_avatar, visible_rows
from exporting.numpy_player import Avatar
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from gaussian_renderer import render
from player import Player
from scene.rig import Codes
from scene.sway import CODES
from tests.player_subject import CPU, FRAMES, lively_player

SOURCE = Path(__file__).resolve().parents[1] / "exporting" / "numpy_player.py"
CENTER = torch.tensor([[0.2, 0.1, 0.6]])


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player(correctives=True)


@pytest.fixture(scope="module")
def file(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_avatar(player, ExportSettings(tmp_path_factory.mktemp("run")))


def pose_of(avatar: Avatar, codes: Codes) -> dict[str, np.ndarray]:
    """The loader's pose of codes of one frame."""
    rows = {name: getattr(codes, name)[0].numpy() for name in ("expression", "jaw", "eyes", "eyelids")}
    if codes.neck is not None:
        rows["neck"] = codes.neck[0].numpy()
    if codes.sway is not None:
        rows["sway"] = codes.sway[0].numpy()
    return avatar.pose(**rows)


def dense(tables: dict[str, np.ndarray], name: str, drivers: int, count: int) -> torch.Tensor:
    """A list of (driver, Gaussian, values) as [drivers, N, C]."""
    values = torch.from_numpy(tables[f"{name}.values"].astype(np.float32) * tables[f"{name}.unit"])
    table = torch.zeros(drivers, count, values.shape[1])
    driver = np.repeat(np.arange(drivers), np.diff(tables[f"{name}.start"]))
    table[torch.from_numpy(driver), torch.from_numpy(tables[f"{name}.gaussian"]).long()] = values
    return table


@torch.no_grad()
def pose_by_operation(file: Path, player: Player, codes: Codes) -> Posed:
    """The file's tables in the training operation: every Gaussian on a triangle of its own, the rig's own bones."""
    t = load_file(file)
    count, K = len(t["means"]), player.num_expressions
    rig = player.rig.with_codes(codes)
    plain = rig.drive(torch.zeros(1, dtype=torch.int64), CENTER)
    neutral = torch.zeros(count, WIDTH)
    raw = np.column_stack([t["means"], t["rest"].astype(np.float32)])
    neutral[:, :raw.shape[1]] = torch.from_numpy(raw)
    learnt = dense(t, "difference", K, count)
    differences = Differences.from_mask((learnt != 0).any(dim=2).float().T.contiguous())
    differences.values[:, :learnt.shape[2]] = learnt[differences.expression.long(), differences.gaussian.long()]
    weights = torch.from_numpy(t["weights"].astype(np.float32))
    corner = torch.tensor([1.0, 0, 0]).expand(count, 3)
    binding = Binding(torch.arange(count, dtype=torch.int32), torch.zeros(count, 3), corner.contiguous(),
                      weights / weights.sum(dim=1, keepdim=True))
    motion = torch.einsum("k,knc->nc", plain.beta[0], dense(t, "motion", K, count))
    feature = rig.posed.pose_feature[0]
    before = torch.einsum("f,fnc->nc", feature, dense(t, "corrective", len(feature), count))
    after = torch.einsum("e,enc->nc", codes.eyelids[0], dense(t, "eyelid", 2, count))
    limited = limit_codes(plain.beta, torch.from_numpy(t["code_range"]))
    pose = torch.zeros(CODES) if codes.sway is None else codes.sway[0]
    control = torch.einsum("k,kcd->cd", torch.cat([pose, limited[0]]), torch.from_numpy(t["sway.control"]))
    before = before + torch.einsum("cn,cd->nd", dense(t, "sway", len(control), count)[..., 0], control)
    drive = Drive(limited, torch.cat([torch.zeros(count, 9), motion], dim=1)[None], plain.bones,
                  CENTER, torch.arange(count, dtype=torch.int32)[:, None].repeat(1, 3), before[None], after[None])
    return blend_pose_color(neutral, differences, binding, drive, player.sh_degree)


@pytest.mark.parametrize("stretch", [1.0, 4.0], ids=["of the clip", "far outside"])
@pytest.mark.parametrize("frame", range(FRAMES))
def test_loader_agrees_with_the_renderers_input(player: Player, file: Path, frame: int, stretch: float) -> None:
    codes = player.codes_of(frame)
    codes = dataclasses.replace(codes, expression=stretch * codes.expression)
    wanted, avatar = pose_by_operation(file, player, codes), Avatar(str(file))
    found = pose_of(avatar, codes)
    colors = avatar.colors(found, CENTER[0].numpy())
    for name, values in (("means", found["means"]), ("scales", found["scales"]), ("opacities", found["opacities"])):
        np.testing.assert_allclose(values, getattr(wanted, name)[0].numpy(), atol=1e-5, rtol=0, err_msg=name)
    quats = wanted.quats[0].numpy()
    sign = np.sign((found["quats"] * quats).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(sign * found["quats"], quats, atol=1e-5)
    np.testing.assert_allclose(colors, wanted.colors[0].numpy(), atol=1e-5)


def test_pictures_are_the_players(player: Player, file: Path) -> None:
    """50 dB is what the format promises; the made-up differences here are far larger than learnt ones."""
    avatar = Avatar(str(file))
    for frame in range(FRAMES):
        codes, cameras = player.codes_of(frame), player.cameras_of(frame)
        found = pose_of(avatar, codes)
        found["colors"] = avatar.colors(found, cameras.centers[0].numpy())
        posed = Posed(*(torch.from_numpy(np.ascontiguousarray(found[name])).float()[None]
                        for name in ("means", "quats", "scales", "opacities", "colors")))
        error = (render(posed, cameras).image - player.render(codes, cameras).image).square().mean()
        assert -10 * math.log10(float(error)) > 50


def test_names_numbers_and_rest(player: Player, file: Path) -> None:
    avatar = Avatar(str(file))
    assert avatar.facts["expression_names"] == list(player.expression_names)
    by_name = avatar.pose({player.expression_names[2]: 0.4})
    by_number = avatar.pose([0, 0, 0.4])
    np.testing.assert_array_equal(by_name["means"], by_number["means"])
    rest = player.pose(player.neutral_codes(), CENTER)
    kept = visible_rows(player).numpy()
    np.testing.assert_allclose(avatar.pose()["means"], rest.means[0].numpy()[kept], atol=1e-6)
    assert np.abs(by_name["means"] - avatar.pose()["means"]).max() > 1e-4


def test_expressions_take_the_jaw_along_unless_it_is_given(player: Player, file: Path) -> None:
    avatar, index = Avatar(str(file)), player.expression_names.index("jawOpen")
    turn = 0.5 * player.head.expression_jaw[index]
    six = matrix_to_6d(matrix_from_axis_angle(turn)).numpy()
    assert turn.norm() > 0.05
    np.testing.assert_allclose(avatar.pose({"jawOpen": 0.5})["means"], avatar.pose({"jawOpen": 0.5}, jaw=six)["means"],
                               atol=1e-7)
    shut = avatar.pose({"jawOpen": 0.5}, jaw=(1, 0, 0, 0, 1, 0))
    assert np.abs(avatar.pose({"jawOpen": 0.5})["means"] - shut["means"]).max() > 1e-3


def test_codes_beyond_training_move_the_mesh_but_not_the_differences(player: Player, file: Path) -> None:
    avatar = Avatar(str(file))
    most = float(player.avatar.code_range[1, 0])
    name = player.expression_names[0]
    at, beyond = avatar.pose({name: most}), avatar.pose({name: 2 * most})
    np.testing.assert_array_equal(at["sh"], beyond["sh"])
    assert not np.array_equal(at["means"], beyond["means"])


def test_invisible_gaussians_are_left_out(player: Player) -> None:
    """Opacity below 1/255 at rest does not suffice: an expression may raise it."""
    neutral = player.avatar.neutral.detach().clone()
    offsets = player.avatar.differences.offsets
    lonely = int((offsets.diff() == 0).nonzero()[0])  # a Gaussian without differences
    driven = int(offsets.diff().argmax())
    logit = math.log(INVISIBLE / (1 - INVISIBLE))
    neutral[lonely, 10] = neutral[driven, 10] = logit - 0.01
    differences = player.avatar.differences.to("cpu")
    values = differences.values.clone()
    pair = int(offsets[driven])
    values[pair, 10] = 100.0  # times a mask of about 1 and a code of about 0.5
    differences = dataclasses.replace(differences, values=values)
    avatar = dataclasses.replace(player.avatar, neutral=neutral, differences=differences)
    changed = Player(player.head, avatar, player.clip, 3, player.num_expressions, CPU, "faint")
    rows = visible_rows(changed)
    assert not rows[lonely]
    assert rows[driven]
    tables, _ = compact_tables(changed)
    assert len(tables["means"]) == int(rows.sum()) < avatar.count
    assert tables["difference.gaussian"].max() < len(tables["means"])


def test_unlimited_codes_prune_by_the_clip(player: Player) -> None:
    """Models of the reference have no range of codes; 0 x infinity must not decide what is kept."""
    unlimited = torch.full_like(player.avatar.code_range, float("inf")) * torch.tensor([[-1.0], [1.0]])
    avatar = dataclasses.replace(player.avatar, code_range=unlimited)
    tables, _ = compact_tables(Player(player.head, avatar, player.clip, 3, player.num_expressions, CPU, "free"))
    limited, _ = compact_tables(player)
    assert len(tables["difference.values"]) == len(limited["difference.values"])
    assert np.isinf(tables["code_range"]).all()


def test_header_says_what_it_is(player: Player, file: Path) -> None:
    with safe_open(file, framework="np") as opened:
        text = opened.metadata()["avatar"]
    facts: dict[str, Any] = dict(Avatar(str(file)).facts)
    assert (facts["format"], facts["version"]) == ("gaussian-blendshape-avatar", 1)
    assert facts["parents"] == list(player.head.parents)
    assert '"sh_degree": 3' in text


def test_loader_is_short_and_needs_numpy_alone(file: Path, tmp_path: Path) -> None:
    text = SOURCE.read_text()
    assert text.count("\n") <= 100
    imported = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert imported == {"json", "typing", "numpy"}
    (tmp_path / "numpy_player.py").write_text(text)
    program = (f"import sys; sys.modules['torch'] = None; from numpy_player import Avatar;"
               f"print(len(Avatar({str(file)!r}).pose()['means']))")
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 100


@pytest.mark.parametrize(("changes", "message"), [
    ({"frame": 0}, r"--frame: --format avatar holds the avatar, not a pose"),
    ({"expression": ("a=1",)}, r"--expression: --format avatar holds the avatar"),
    ({"output": Path("a.ply")}, r"--output: wanted the name of a \.safetensors file, got a\.ply"),
])
def test_flags_that_make_no_sense(player: Player, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_avatar(player, ExportSettings(tmp_path, format="avatar", **changes))
