"""Splat files of one pose, read back by readers that share nothing with the writers."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pygltflib
import pytest
import torch
import trimesh
from blendshape_ops import sh_basis
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from torch.nn.functional import normalize

from arguments.export_settings import ExportSettings
from exporting.poses import HALF_TURN, chosen_poses, export_poses, frame_numbers
from exporting.sh_rotation import rotate_sh
from exporting.splat_files import write_ply, write_spz
from exporting.splats import SplatCloud, posed_splats
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_from_quat, matrix_to_axis_angle
from player import Player
from tests.player_subject import FRAMES, lively_player

FRAME = 2


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player(correctives=True)


@pytest.fixture(scope="module")
def cloud(player: Player) -> SplatCloud:
    return posed_splats(player, player.codes_of(FRAME))


def settings(tmp_path: Path, **changes) -> ExportSettings:
    return ExportSettings(tmp_path, **changes)


# Rotating harmonics


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rotated_harmonics_give_the_same_colours(degree: int) -> None:
    g = torch.Generator().manual_seed(degree)
    count = (degree + 1) ** 2
    sh = torch.randn(50, count, 3, generator=g, dtype=torch.float64)
    turn = matrix_from_axis_angle(2 * torch.randn(50, 3, generator=g, dtype=torch.float64))
    directions = normalize(torch.randn(40, 3, generator=g, dtype=torch.float64), dim=1)
    before = torch.einsum("ndj,njc->ndc", sh_basis(directions @ turn, degree), sh)  # rows R^T d
    after = torch.einsum("dj,njc->ndc", sh_basis(directions, degree), rotate_sh(sh, turn))
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)  # a pseudo-inverse of condition below 4, in double
    if degree:
        assert not torch.allclose(rotate_sh(sh, turn), sh, atol=0.1)


def test_rotations_of_harmonics_compose_and_reach_every_chunk() -> None:
    g = torch.Generator().manual_seed(0)
    sh = torch.randn(17_000, 16, 3, generator=g)  # more than a chunk
    a, b = (matrix_from_axis_angle(torch.randn(1, 3, generator=g)).expand(len(sh), 3, 3) for _ in range(2))
    torch.testing.assert_close(rotate_sh(rotate_sh(sh, a), b), rotate_sh(sh, b @ a), atol=1e-5, rtol=0)  # float32


def test_rotate_sh_refuses_half_a_degree() -> None:
    with pytest.raises(ValueError, match=r"sh: wanted 1, 4, 9 or 16 coefficients, got 5"):
        rotate_sh(torch.zeros(1, 5, 3), torch.eye(3)[None])


# The cloud


@pytest.mark.parametrize("stretch", [1.0, 4.0], ids=["of the clip", "far outside"])
def test_cloud_shows_what_the_player_shows(player: Player, stretch: float) -> None:
    centers, codes = torch.tensor([[0.3, 0.1, 0.5]]), player.codes_of(FRAME)
    codes = dataclasses.replace(codes, expression=stretch * codes.expression)
    cloud, posed = posed_splats(player, codes), player.pose(codes, centers)
    np.testing.assert_array_equal(cloud.means, posed.means[0].numpy())
    np.testing.assert_array_equal(cloud.opacities, posed.opacities[0].numpy())
    directions = normalize(posed.means[0] - centers, dim=1)
    colors = (0.5 + torch.einsum("nj,njc->nc", sh_basis(directions, 3), torch.from_numpy(cloud.sh))).clamp(min=0)
    torch.testing.assert_close(colors, posed.colors[0], atol=2e-5, rtol=0)  # float32 directions, coefficients near 1


def test_gaussians_that_are_not_finite_are_left_out(player: Player) -> None:
    neutral = player.avatar.neutral.detach().clone()
    neutral[7, 0] = float("nan")
    avatar = dataclasses.replace(player.avatar, neutral=neutral)
    broken = Player(player.head, avatar, player.clip, 3, player.num_expressions, player.device, "broken")
    assert len(posed_splats(broken, broken.neutral_codes())) == avatar.count - 1


def test_lower_degree_leaves_higher_bands_out(player: Player) -> None:
    flat = Player(player.head, player.avatar, player.clip, 1, player.num_expressions, player.device, "flat")
    assert posed_splats(flat, flat.neutral_codes()).sh.shape[1:] == (4, 3)


# .ply


def read_ply(path: Path) -> dict[str, np.ndarray]:
    """Columns by meaning, as any program of 3D Gaussian splatting reads them."""
    vertex = plyfile.PlyData.read(str(path))["vertex"]

    def columns(*names: str) -> np.ndarray:
        return np.stack([vertex[name] for name in names], axis=1)

    rest = columns(*(f"f_rest_{i}" for i in range(45))).reshape(-1, 3, 15).transpose(0, 2, 1)
    return {"names": np.array(vertex.data.dtype.names), "means": columns("x", "y", "z"),
            "sh": np.concatenate([columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None], rest], axis=1),
            "opacities": 1 / (1 + np.exp(-columns("opacity"))),
            "scales": np.exp(columns(*(f"scale_{i}" for i in range(3)))),
            "quats": columns(*(f"rot_{i}" for i in range(4)))}


def draw_ply(path: Path, player: Player, frame: int, turn: np.ndarray | None = None) -> torch.Tensor:
    """The file's picture [3,H,W] by the interface that programs of 3D Gaussian splatting use."""
    splats = {name: torch.from_numpy(np.ascontiguousarray(value)).float()
              for name, value in read_ply(path).items() if name != "names"}
    cameras = player.cameras_of(frame)
    R, t, K, width, height = cameras.R[0], cameras.t[0], cameras.K[0], cameras.width, cameras.height
    if turn is not None:
        R = R @ torch.from_numpy(turn).float()
    view, projection = torch.eye(4), torch.zeros(4, 4)
    view[:3, :3], view[:3, 3] = R, t
    projection[0, 0], projection[0, 2] = 2 * K[0, 0] / width, 2 * K[0, 2] / width - 1
    projection[1, 1], projection[1, 2] = 2 * K[1, 1] / height, 2 * K[1, 2] / height - 1
    projection[3, 2] = 1
    camera = GaussianRasterizationSettings(
        height, width, float(width / (2 * K[0, 0])), float(height / (2 * K[1, 1])), torch.zeros(3), 1.0, view.T,
        (projection @ view).T, 3, -R.T @ t)
    return GaussianRasterizer(camera)(splats["means"], None, splats["opacities"], shs=splats["sh"],
                                      scales=splats["scales"], rotations=splats["quats"])[0]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-20)


def test_ply_has_the_full_layout_and_the_splats(cloud: SplatCloud, tmp_path: Path) -> None:
    write_ply(cloud, tmp_path / "a.ply")
    found = read_ply(tmp_path / "a.ply")
    names = found["names"].tolist()
    assert len(names) == 62
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    for name, exact in (("means", True), ("sh", True), ("quats", True), ("opacities", False), ("scales", False)):
        wanted = getattr(cloud, name).reshape(found[name].shape)
        np.testing.assert_allclose(found[name], wanted, rtol=0 if exact else 1e-5)  # logarithms in float32


def test_ply_pictures_are_the_players(player: Player, tmp_path: Path) -> None:
    wanted = player.render(player.codes_of(FRAME), player.cameras_of(FRAME)).image[0]
    export_poses(player, settings(tmp_path, frame=FRAME, up="y", output=tmp_path / "y.ply"))
    export_poses(player, settings(tmp_path, frame=FRAME, output=tmp_path / "auto.ply"))
    assert wanted.max() > 0.5
    assert psnr(draw_ply(tmp_path / "y.ply", player, FRAME), wanted) > 70  # float32 rounding alone gives 90 and more
    assert psnr(draw_ply(tmp_path / "auto.ply", player, FRAME, HALF_TURN), wanted) > 70
    assert psnr(draw_ply(tmp_path / "auto.ply", player, FRAME), wanted) < 30  # it was turned


def test_ply_of_a_lower_degree_is_filled_with_zeros(cloud: SplatCloud, tmp_path: Path) -> None:
    write_ply(dataclasses.replace(cloud, sh=cloud.sh[:, :4]), tmp_path / "a.ply")
    found = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(found["sh"][:, :4], cloud.sh[:, :4])
    assert not found["sh"][:, 4:].any()


# .splat, .spz, .glb


def test_splat_rows(player: Player, cloud: SplatCloud, tmp_path: Path) -> None:
    path = export_poses(player, settings(tmp_path, format="splat", frame=FRAME, up="y"))
    data = path.read_bytes()
    assert len(data) == 32 * len(cloud)
    first = struct.unpack("<6f4B4B", data[:32])
    n = int(np.argmax(cloud.scales.prod(axis=1) * cloud.opacities))
    np.testing.assert_allclose(first[:6], [*cloud.means[n], *cloud.scales[n]], rtol=1e-6)
    base = 255 * (0.5 + 0.28209479 * cloud.sh[n, 0])
    np.testing.assert_allclose(first[6:10], np.clip([*base, 255 * cloud.opacities[n]], 0, 255), atol=0.51)
    np.testing.assert_allclose((np.array(first[10:]) - 128) / 128, cloud.quats[n], atol=1 / 127)


def unpack_spz(path: Path) -> dict[str, np.ndarray]:
    """A reader by the published layout of version 3, one splat at a time where the bits are packed."""
    raw = gzip.decompress(path.read_bytes())
    magic, version, n, degree, fraction, _, _ = struct.unpack("<IIIBBBB", raw[:16])
    assert (magic, version) == (0x5053474E, 3)
    bands, at = (degree + 1) ** 2 - 1, 16
    blocks = {}
    for name, width in (("means", 9), ("alphas", 1), ("colors", 3), ("scales", 3), ("quats", 4), ("sh", 3 * bands)):
        blocks[name] = np.frombuffer(raw, np.uint8, n * width, at).reshape(n, width)
        at += n * width
    assert at == len(raw)
    fixed = [[int.from_bytes(row[i:i + 3].tobytes(), "little", signed=True) for i in (0, 3, 6)]
             for row in blocks["means"]]
    quats = []
    for row in blocks["quats"]:
        word, q = int.from_bytes(row.tobytes(), "little"), [0.0] * 4
        largest = word >> 30
        for i in (i for i in (3, 2, 1, 0) if i != largest):
            q[i] = (word & 511) / 511 / math.sqrt(2) * (-1 if word & 512 else 1)
            word >>= 10
        q[largest] = math.sqrt(max(0, 1 - sum(v * v for v in q)))
        quats.append([q[3], *q[:3]])
    return {"means": np.array(fixed) / (1 << fraction), "quats": np.array(quats),
            "opacities": blocks["alphas"][:, 0] / 255,
            "scales": np.exp(blocks["scales"] / 16.0 - 10), "dc": (blocks["colors"] / 255.0 - 0.5) / 0.15,
            "rest": (blocks["sh"].reshape(n, bands, 3) - 128.0) / 128}


def test_spz_holds_the_splats_to_its_precision(player: Player, cloud: SplatCloud, tmp_path: Path) -> None:
    path = export_poses(player, settings(tmp_path, format="spz", frame=FRAME))
    found = unpack_spz(path)
    np.testing.assert_allclose(found["means"], cloud.means, atol=1e-6)  # 20 bits of fraction
    np.testing.assert_allclose(found["opacities"], cloud.opacities, atol=0.51 / 255)
    np.testing.assert_allclose(np.log(found["scales"]), np.log(cloud.scales).clip(-10, 5.9), atol=0.51 / 16)
    limit = 0.5 / 0.15  # colours are clipped there
    np.testing.assert_allclose(found["dc"], cloud.sh[:, 0].clip(-limit, limit), atol=0.51 / 255 / 0.15)
    assert np.abs((found["quats"] * cloud.quats).sum(axis=1)).min() > 0.99999
    rest = cloud.sh[:, 1:].clip(-1, 127 / 128)
    np.testing.assert_allclose(found["rest"], rest, atol=0.51 / 128)


def test_spz_can_be_turned_like_ply(player: Player, tmp_path: Path) -> None:
    plain = unpack_spz(export_poses(player, settings(tmp_path, format="spz", output=tmp_path / "y.spz")))
    turned = unpack_spz(export_poses(player, settings(tmp_path, format="spz", up="-y", output=tmp_path / "down.spz")))
    np.testing.assert_allclose(turned["means"], plain["means"] * [1, -1, -1], atol=1e-6)


def test_spz_refuses_what_24_bits_cannot_hold(cloud: SplatCloud, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.spz: the \.spz format holds positions below"):
        write_spz(dataclasses.replace(cloud, means=cloud.means + np.float32(1e8)), tmp_path / "a.spz")
    assert not list(tmp_path.iterdir())


def test_glb_accessors_hold_the_splats(player: Player, cloud: SplatCloud, tmp_path: Path) -> None:
    path = export_poses(player, settings(tmp_path, format="gltf", frame=FRAME))
    gltf = pygltflib.GLTF2().load(str(path))
    blob, primitive = gltf.binary_blob(), gltf.meshes[0].primitives[0]
    assert gltf.extensionsUsed == ["KHR_gaussian_splatting"]
    assert primitive.mode == pygltflib.POINTS
    assert primitive.extensions["KHR_gaussian_splatting"]["kernel"] == "ellipse"

    def values(name: str) -> np.ndarray:
        accessor = gltf.accessors[getattr(primitive.attributes, name)]
        view = gltf.bufferViews[accessor.bufferView]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        return np.frombuffer(blob, "<f4", accessor.count * width, view.byteOffset).reshape(accessor.count, width)

    prefix = "KHR_gaussian_splatting:"
    np.testing.assert_array_equal(values("POSITION"), cloud.means)
    np.testing.assert_array_equal(values(f"{prefix}ROTATION"), cloud.quats[:, [1, 2, 3, 0]])
    np.testing.assert_array_equal(values(f"{prefix}SCALE"), cloud.scales)  # linear, as ratified
    np.testing.assert_array_equal(values(f"{prefix}OPACITY")[:, 0], cloud.opacities)
    coefficients = [values(f"{prefix}SH_DEGREE_{d}_COEF_{n}") for d in range(4) for n in range(2 * d + 1)]
    np.testing.assert_array_equal(np.stack(coefficients, axis=1), cloud.sh)
    assert gltf.accessors[0].min == pytest.approx(cloud.means.min(axis=0).tolist())
    scene: Any = trimesh.load(path)
    points = next(iter(scene.geometry.values()))  # what a program without the extension sees
    np.testing.assert_allclose(points.vertices, cloud.means, rtol=1e-6)


# Which pose


def test_sequence_is_a_folder_of_numbered_files(player: Player, tmp_path: Path) -> None:
    folder = export_poses(player, settings(tmp_path, frames="1:5:2"))
    assert sorted(p.name for p in folder.iterdir()) == ["00001.ply", "00003.ply"]
    single = export_poses(player, settings(tmp_path, frame=3, output=tmp_path / "3.ply"))
    assert (folder / "00003.ply").read_bytes() == single.read_bytes()


def test_expression_pairs_and_code_files_say_the_same(player: Player, tmp_path: Path) -> None:
    name, other = player.expression_names[3], player.expression_names[5]
    file = tmp_path / "smile.json"
    file.write_text(json.dumps({"expression": {name: 0.5, other: -0.25}, "eyelids": [0.1, 0.2]}))
    (stem, by_file), = chosen_poses(player, settings(tmp_path, codes=file))
    (_, by_flag), = chosen_poses(player, settings(tmp_path, expression=(f"{name}=0.5", f"{other}=-0.25")))
    assert stem == "smile"
    assert torch.equal(by_file.expression, by_flag.expression)
    assert by_flag.expression[0, [3, 5]].tolist() == [0.5, -0.25]
    assert by_file.eyelids[0].tolist() == pytest.approx([0.1, 0.2])
    assert by_flag.jaw.tolist() == player.neutral_codes().jaw.tolist()
    file.write_text(json.dumps({"expression": [0, 0.75]}))
    assert chosen_poses(player, settings(tmp_path, codes=file))[0][1].expression[0, :3].tolist() == [0, 0.75, 0]


def test_named_expressions_take_the_jaw_along(player: Player, tmp_path: Path) -> None:
    """On the open head, jawOpen comes with a turn of the jaw: without it the lips part and the teeth stay shut."""
    turn = player.head.expression_jaw[player.expression_names.index("jawOpen")]
    assert turn.norm() > 0.1
    file = tmp_path / "open.json"
    poses = {"flag": chosen_poses(player, settings(tmp_path, expression=("jawOpen=0.5",)))}
    for name, content in (("file", {"expression": {"jawOpen": 0.5}}),
                          ("said", {"expression": {"jawOpen": 0.5}, "jaw": [1, 0, 0, 0, 1, 0]}),
                          ("said first", {"jaw": [1, 0, 0, 0, 1, 0], "expression": {"jawOpen": 0.5}})):
        file.write_text(json.dumps(content))
        poses[name] = chosen_poses(player, settings(tmp_path, codes=file))
    for name, ((_, codes),) in poses.items():
        wanted = torch.zeros(3) if name.startswith("said") else 0.5 * turn
        torch.testing.assert_close(matrix_to_axis_angle(matrix_from_6d(codes.jaw))[0], wanted, atol=1e-6, rtol=0)
    (_, framed), = chosen_poses(player, settings(tmp_path, frame=1, expression=("jawOpen=0.9",)))
    before = matrix_to_axis_angle(matrix_from_6d(player.codes_of(1).jaw))[0]
    change = 0.9 - float(player.codes_of(1).expression[0, player.expression_names.index("jawOpen")])
    after = matrix_to_axis_angle(matrix_from_6d(framed.jaw))[0]
    torch.testing.assert_close(after, before + change * turn, atol=1e-5, rtol=0)


def test_pairs_change_a_frame(player: Player, tmp_path: Path) -> None:
    (_, changed), = chosen_poses(player, settings(tmp_path, frame=1, expression=(f"{player.expression_names[0]}=2",)))
    plain = player.codes_of(1)
    assert changed.expression[0, 0] == 2
    assert torch.equal(changed.expression[:, 1:], plain.expression[:, 1:])
    assert plain.expression[0, 0] != 2


def test_frame_numbers() -> None:
    assert list(frame_numbers("2:4", 5)) == [2, 3]
    assert list(frame_numbers(":", 3)) == [0, 1, 2]
    assert list(frame_numbers("1::2", 6)) == [1, 3, 5]


@pytest.mark.parametrize("text", ["5", "a:b", "1:2:0", "-1:2", "3:2", "0:6", "5:"])
def test_bad_frame_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"--frames: wanted"):
        frame_numbers(text, 5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"frame": FRAMES}, r"--frame: wanted 0 to 4, the frames of the clip, got 5"),
    ({"frame": -1}, r"--frame: wanted 0 to 4"),
    ({"frame": 1, "frames": "0:2"}, r"--frame and --frames both say the pose"),
    ({"expression": ("jaw",)}, r"--expression: wanted name=value such as jawOpen=0.5, got 'jaw'"),
    ({"format": "gltf", "up": "-y"}, r"--up -y: gltf prescribes y up"),
    ({"output": Path("a.splat")}, r"--output: wanted the name of a \.ply file, got a\.splat"),
])
def test_flags_that_make_no_sense(player: Player, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_poses(player, settings(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_unknown_expression_gets_a_suggestion(player: Player, tmp_path: Path) -> None:
    name = player.expression_names[0]
    with pytest.raises(ValueError, match=rf"no expression '{name}x'; did you mean '{name}'\?"):
        chosen_poses(player, settings(tmp_path, expression=(f"{name}x=1",)))
    with pytest.raises(ValueError, match=r"wanted a finite number, got nan"):
        chosen_poses(player, settings(tmp_path, expression=(f"{name}=nan",)))


def test_sequence_refuses_a_file_as_its_folder(player: Player, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    with pytest.raises(ValueError, match=r"--output: wanted a folder for --frames, got the file"):
        export_poses(player, settings(tmp_path, frames="0:2", output=tmp_path / "here"))


@pytest.mark.parametrize(("text", "message"), [
    ("{", r"pose\.json: not a readable JSON file"),
    ("[" * 100_000, r"pose\.json: not a readable JSON file \(nested too deeply\)"),
    ('{"eyelids": [1%s, 0]}' % ("0" * 400), r"pose\.json: eyelids: wanted a list of 2 finite numbers"),
    ('{"expression": {"NAME": 1%s}}' % ("0" * 400), r"wanted a finite number, got 10{59}$"),
    ("[1]", r"pose\.json: wanted an object of codes, got list"),
    ('{"jaws": []}', r"pose\.json: unknown field 'jaws'; wanted expression, jaw"),
    ('{"jaw": [1, 0]}', r"pose\.json: jaw: wanted a list of 6 finite numbers, got 2"),
    ('{"jaw": "open"}', r"pose\.json: jaw: wanted a list of 6 finite numbers, got str"),
    ('{"eyelids": [NaN, 0]}', r"pose\.json: eyelids: wanted a list of 2 finite numbers"),
    ('{"expression": {"frown9": 1}}', r"pose\.json: the head has no expression 'frown9'"),
    ('{"expression": {"NAME": "a lot"}}', r"NAME|wanted a finite number"),
])
def test_bad_code_files(player: Player, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pose.json"
    file.write_text(text.replace("NAME", player.expression_names[0]))
    with pytest.raises(ValueError, match=message):
        chosen_poses(player, settings(tmp_path, codes=file))


def test_turning_a_cloud_turns_its_axes(cloud: SplatCloud) -> None:
    turned = cloud.rotated(HALF_TURN)
    np.testing.assert_allclose(turned.means, cloud.means * np.array([1, -1, -1], np.float32))
    axes = matrix_from_quat(torch.from_numpy(turned.quats))
    wanted = torch.from_numpy(HALF_TURN).float() @ matrix_from_quat(torch.from_numpy(cloud.quats))
    torch.testing.assert_close(axes, wanted, atol=1e-6, rtol=0)
