"""An avatar's folder plays without its data set, and draws what test.py draws."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import test as test_program
from arguments import TrainSettings, load_config
from flame import load_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from player import Player, open_player
from scene.checkpoint import CheckpointError, newest_checkpoint
from scene.clip import CLIP_FILE, Clip, head_of, load_clip, save_clip
from scene.rig import Codes
from tests.subjects import write_subject
from training.world import open_world

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FRAMES = 6


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subject(tmp_path_factory.mktemp("subject"), FRAMES, 48)


@pytest.fixture(scope="module")
def run(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    subprocess.run([sys.executable, "train.py", "-s", str(subject), "-m", str(out), "--test_frames", "2",
                    "--num_face_gaussians", "400", "--num_teeth_gaussians", "20", "--iterations", "6",
                    "--test_views", "0", "--refine_tracking", "False", "--sh_interval", "1", "--num_expressions", "20",
                    "--device", "cpu"],
                   cwd=ROOT, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def alone(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a config.json whose data set is nowhere."""
    folder = tmp_path_factory.mktemp("alone") / "somebody"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["source_path"] = str(folder / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def player(alone: Path) -> Player:
    return open_player(alone, CPU)


def test_pictures_are_those_of_the_test_program(run: Path, player: Player) -> None:
    settings = load_config(TrainSettings, run)
    avatar = newest_checkpoint(run).avatar
    world = open_world(settings.data, settings.model, settings.run.seed, CPU).swayed(avatar.sway)
    frames = [1, 4]
    wanted, alpha = test_program.render_on_black(world, avatar, player.sh_degree, frames)
    got = player.render(player.codes_of(frames), player.cameras_of(frames))
    assert float(wanted.max()) > 0
    # Posing two frames or all at once adds in another order: a rounding of float32, which may move a cut by one step.
    assert float((got.image - wanted).abs().max()) < 1e-4
    assert float((got.alpha - alpha).abs().max()) < 1e-4


def test_what_a_player_says_about_itself(player: Player) -> None:
    assert player.name == "somebody"
    assert player.num_expressions == 20
    assert player.sh_degree == 3
    assert player.expression_names == player.head.expression_names
    assert len(player.clip) == FRAMES
    assert player.clip.test.tolist() == [4, 5]


def test_neutral_codes_are_the_head_at_rest(player: Player) -> None:
    neutral = player.vertices(player.neutral_codes(2))
    assert neutral.shape == (2, player.head.n_vertices, 3)
    assert torch.equal(neutral[0], neutral[1])
    # five joints' transforms, each an identity to rounding of sizes below a metre
    assert float((neutral[0] - player.rig.posed.neutral).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["expression", "jaw", "neck"])
def test_every_code_moves_mesh_gaussians_and_picture(player: Player, name: str) -> None:
    codes = player.neutral_codes()
    if name == "expression":
        moved = torch.zeros_like(codes.expression)
        sizes = player.head.expression_dirs[:, :, :player.num_expressions].norm(dim=1).amax(dim=0)
        moved[0, int(sizes.argmax())] = 1
    else:
        moved = matrix_to_6d(matrix_from_axis_angle(torch.tensor([[0.2, 0.0, 0.0]])))
    other = dataclasses.replace(codes, **{name: moved})
    cameras = player.cameras_of(0)
    assert float((player.vertices(other) - player.vertices(codes)).norm(dim=-1).max()) > 5e-3
    first, second = player.pose(codes, cameras.centers), player.pose(other, cameras.centers)
    assert float((first.means - second.means).norm(dim=-1).max()) > 5e-3
    assert not torch.equal(player.render(codes, cameras).image, player.render(other, cameras).image)


def test_the_identity_is_the_avatars(player: Player) -> None:
    codes = player.codes_of([0])
    stranger = dataclasses.replace(codes, shape=torch.ones(3))
    assert torch.equal(player.vertices(codes), player.vertices(stranger))


def test_cameras_of_another_size_show_the_same_view(player: Player) -> None:
    own, double = player.cameras_of([2]), player.cameras_of([2], width=96)
    assert (double.width, double.height) == (96, 96)
    point = torch.tensor([0.01, 0.02, 0.03])

    def projected(camera):
        seen = camera.K[0] @ (camera.R[0] @ point + camera.t[0])
        return seen[:2] / seen[2]

    assert torch.allclose(projected(double), 2 * projected(own), rtol=1e-5)
    assert player.cameras_of([2], height=24).width == 24
    assert player.cameras_of([2], 40, 24).width == 40
    picture = player.render(player.codes_of(2), double, torch.ones(3)).image
    assert picture.shape == (1, 3, 96, 96)


def test_frames_can_be_named_in_four_ways(player: Player) -> None:
    wanted = player.clip.codes.expression[1:3]
    for frames in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        assert torch.equal(player.codes_of(frames).expression, wanted)
    assert len(player.codes_of(1)) == 1
    with pytest.raises(ValueError, match="frames: wanted 0 to 5, got 6"):
        player.codes_of([0, 6])


def test_codes_that_do_not_fit_are_refused(player: Player) -> None:
    codes, cameras = player.codes_of([0, 1]), player.cameras_of([0, 1])
    with pytest.raises(ValueError, match="expression: wanted"):
        player.render(dataclasses.replace(codes, expression=torch.zeros(2, 7)), cameras)
    with pytest.raises(ValueError, match="jaw: wanted"):
        player.render(dataclasses.replace(codes, jaw=codes.jaw[:1]), cameras)
    with pytest.raises(ValueError, match=r"centers: wanted \[2, 3\]"):
        player.render(codes, player.cameras_of([0]))


def test_a_run_without_a_clip_falls_back_to_its_data_set(run: Path, player: Player, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / CLIP_FILE).unlink()
    old = open_player(tmp_path / "old", CPU)
    for name in ("R", "t", "K", "train", "test"):
        assert torch.equal(getattr(old.clip, name), getattr(player.clip, name))
    assert torch.equal(old.clip.codes.expression, player.clip.codes.expression)


def test_what_is_missing_is_named(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; wanted the output folder of a training run"):
        open_player(tmp_path / "nowhere", CPU)
    with pytest.raises(ValueError, match=r"config\.json: not found"):
        open_player(tmp_path, CPU)
    with pytest.raises(CheckpointError, match="iteration 9, found"):
        open_player(alone, CPU, iteration=9)
    old = tmp_path / "old"
    shutil.copytree(alone, old)
    (old / CLIP_FILE).unlink()
    with pytest.raises(ValueError, match=r"clip\.safetensors: missing .* does not open: .*gone: no such folder"):
        open_player(old, CPU)


@pytest.mark.parametrize(("entry", "value", "message"), [
    ("head", "other", "made with head 'other', but clip.safetensors is of 'open_head'"),
    ("sh_degree", None, "state.json: sh_degree: wanted a whole number from 0 to 3, got 'None'"),
])
def test_a_checkpoint_that_does_not_fit_is_refused(alone, tmp_path, entry, value, message) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    path = next((folder / "checkpoints").iterdir()) / "state.json"
    state = json.loads(path.read_text())
    if value is None:
        del state[entry]
    else:
        state[entry] = value
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=message):
        open_player(folder, CPU)


def some_clip() -> Clip:
    generator = torch.Generator().manual_seed(0)
    sizes = {"shape": (4,), "expression": (3, 5), "jaw": (3, 6), "eyes": (3, 12), "eyelids": (3, 2), "neck": (3, 6)}
    codes = Codes(**{name: torch.randn(*size, generator=generator) for name, size in sizes.items()})
    R, t, K = (torch.randn(3, *size, generator=generator) for size in ((3, 3), (3,), (3, 3)))
    return Clip(codes, R, t, K, 40, 30, torch.tensor([0, 2]), torch.tensor([1]), "open")


@pytest.mark.parametrize("neck", [True, False])
def test_a_clip_comes_back_as_it_was(tmp_path: Path, neck: bool) -> None:
    clip = some_clip()
    if not neck:
        clip = dataclasses.replace(clip, codes=dataclasses.replace(clip.codes, neck=None))
    save_clip(clip, tmp_path)
    again = load_clip(tmp_path)
    for name in ("R", "t", "K", "train", "test"):
        assert torch.equal(getattr(again, name), getattr(clip, name))
    assert (again.width, again.height, again.head) == (40, 30, "open")
    for item in dataclasses.fields(Codes):
        before, after = getattr(clip.codes, item.name), getattr(again.codes, item.name)
        assert (before is None and after is None) or torch.equal(before, after)


def test_a_clip_keeps_what_an_identity_adds_to_the_head(tmp_path: Path) -> None:
    """Without its data set, an avatar is driven by the mesh that it was trained on."""
    head = load_head("open")
    offset = 0.001 * torch.randn(head.n_vertices, 3, generator=torch.Generator().manual_seed(0))
    save_clip(dataclasses.replace(some_clip(), static_offset=offset), tmp_path)
    again = load_clip(tmp_path)
    assert again.static_offset is not None
    assert torch.equal(again.static_offset, offset)
    assert torch.equal(head_of(again).v_template, head.v_template + offset)
    assert torch.equal(head_of(some_clip()).v_template, head.v_template)


def rewrite(folder: Path, tensors: dict | None = None, header: dict | None = None) -> None:
    """Save a clip, then change tensors (None removes) or its header."""
    save_clip(some_clip(), folder)
    path = folder / CLIP_FILE
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    values = {name: value for name, value in (load_file(path) | (tensors or {})).items() if value is not None}
    if header is not None:
        metadata = {"clip": json.dumps(json.loads(metadata["clip"]) | header)}
    save_file(values, path, metadata if header != {} else None)


@pytest.mark.parametrize(("tensors", "message"), [
    ({"R": None, "extra": torch.zeros(1)}, r"missing \['R'\], unexpected \['extra'\]"),
    ({"codes.jaw": torch.zeros(3, 5)}, r"codes\.jaw: wanted torch\.float32 \[None, 6\], got torch\.float32 \[3, 5\]"),
    ({"codes.eyes": torch.zeros(3, 12).double()}, r"codes\.eyes: wanted torch\.float32"),
    ({"t": torch.zeros(2, 3)}, "t: wanted 3 frames as R has, got 2"),
    ({"test": torch.tensor([3])}, "test: wanted frames 0 to 2"),
    ({"K": torch.full((3, 3, 3), torch.nan)}, "K: holds a number that is not finite"),
    ({"static_offset": torch.zeros(7, 2)}, r"static_offset: wanted torch\.float32 \[None, 3\]"),
])
def test_malformed_clips_are_refused(tmp_path: Path, tensors: dict, message: str) -> None:
    rewrite(tmp_path, tensors)
    with pytest.raises(ValueError, match=rf"clip\.safetensors: {message}"):
        load_clip(tmp_path)


@pytest.mark.parametrize(("header", "message"), [
    ({}, "wanted the header that save_clip writes, got None"),
    ({"format_version": 7}, "wanted clip format 1, got 7"),
    ({"width": 0}, "wanted head and a positive width and height"),
    ({"head": 3}, "wanted head and a positive width and height"),
])
def test_malformed_headers_are_refused(tmp_path: Path, header: dict, message: str) -> None:
    rewrite(tmp_path, header=header)
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


def test_a_file_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors: not found; train\.py writes it"):
        load_clip(tmp_path)
    (tmp_path / CLIP_FILE).write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_clip(tmp_path)


def test_a_clip_of_another_head_is_refused(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    clip = load_clip(folder)
    short = dataclasses.replace(clip.codes, expression=clip.codes.expression[:, :9])
    save_clip(dataclasses.replace(clip, codes=short), folder)
    with pytest.raises(ValueError, match=r"codes\.expression: wanted 52 numbers for open_head, got 9"):
        open_player(folder, CPU)


def test_a_header_nested_too_deeply_is_refused_in_one_line(tmp_path: Path) -> None:
    save_file({"R": torch.zeros(1)}, tmp_path / CLIP_FILE, {"clip": "[" * 100_000})
    with pytest.raises(ValueError, match="wanted the header that save_clip writes") as caught:
        load_clip(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
