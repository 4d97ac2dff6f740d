"""The demo subject: what is written reads back, is the same every time, and shows what its codes say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from data.demo import generate as generator
from data.demo.atlas import SKIN
from data.demo.generate import Settings, generate
from data.demo.hair import Segments, draw
from data.demo.layout import MODES
from data.demo.motion import make_motion
from data.demo.render import intrinsics, render
from data.demo.subject import Subject, make_subject, posed_vertices, rest_codes
from flame import Head, check_head_matches, load_head, pose_head
from scene.dataset import Dataset
from scene.readers import open_source
from scene.split import Split
from utils.images import read_rgb
from utils.mesh_raster import project, rasterize_mesh
from utils.safe_pickle import load_torch_dict

FRAMES, SIZE = 4, 64
R, T = np.diag([1.0, -1, -1]), np.array([0, 0.006, 0.62])  # a camera in front of the upright head


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Growing the person takes seconds, so the tests share one."""
    return make_subject(0)


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head("open")


@pytest.fixture
def quick(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "make_subject", lambda seed: subject)


def write(out: Path, **changes: object) -> Path:
    settings = Settings(**{"frames": FRAMES, "size": SIZE, **changes})  # type: ignore[arg-type]
    assert generate(out, settings, workers=1, progress=False)
    return out


@pytest.mark.usefixtures("quick")
def test_several_cameras_see_the_same_moments(tmp_path: Path, head: Head) -> None:
    folder = write(tmp_path / "demo", frames=2, cameras=4)
    data = Dataset(open_source(folder), Split(test_frames=0, cameras=("none",)), progress=False)
    assert data.recording.cameras == ("000", "090", "180", "270")
    assert data.recording.time.tolist() == [0, 1] * 4
    for index in range(8):
        mask = data.rgba(index)[..., 3] / 255.0
        assert (mask[silhouette(head, data, index)] > 0.5).mean() > 0.97
        assert mask[[0, -1]].max() == mask[:, [0, -1]].max() == 0, "the whole head is in the picture"
    # Where the cameras stand in the space of the head: x to its left, z in front of it.
    centres = -torch.einsum("nji,nj->ni", data.R, data.t)[::2]
    for centre, (axis, sign) in zip(centres, ((2, 1), (0, 1), (2, -1), (0, -1)), strict=True):
        assert sign * float(centre[axis]) > 0.9 * float(centre.norm())


@pytest.mark.usefixtures("quick")
def test_a_subject_from_before_there_were_cameras_is_not_drawn_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo", frames=1)
    mark = folder / "truth.json"
    truth = json.loads(mark.read_text())
    del truth["settings"]["cameras"]
    mark.write_text(json.dumps(truth))
    assert not generate(folder, Settings(1, SIZE), workers=1, progress=False)
    assert generate(folder, Settings(1, SIZE, cameras=2), workers=1, progress=False)


@pytest.mark.parametrize("change", [{"cameras": 0}, {"cameras": 2, "mode": "hr"}])
def test_impossible_cameras(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cameras: 1 to 36 expected, more than one with mode insta only"):
        Settings(**change)  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", MODES)
def test_reads_back_in_every_mode(tmp_path: Path, mode: str, head: Head) -> None:
    folder = write(tmp_path / "demo", mode=mode)
    source = open_source(folder, mode)
    data = Dataset(source, Split(test_frames=2), progress=False)
    side = 2 * SIZE if mode == "hr" else SIZE
    assert (data.frame_count, data.width, data.height) == (FRAMES, side, side)
    assert source.head == "open"
    assert source.mesh is not None
    check_head_matches(head, source.mesh.vertices, source.mesh.triangles, str(folder / "canonical.obj"))
    assert data.shape.shape == (FRAMES, 300)
    assert data.expression.shape == (FRAMES, 100)
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["settings"] == asdict(Settings(FRAMES, SIZE, 0, mode))
    for index in range(FRAMES):
        mask = data.rgba(index)[..., 3] / 255.0
        assert 0.2 < mask.mean() < 0.5  # the head fills a good part of the picture, and lies inside it
        # The stored mesh, projected by the stored camera, must lie under the picture of the head. Hair adds to it.
        expected = silhouette(head, data, index)
        assert (mask[expected] > 0.5).mean() > 0.97
    if mode == "nerfbs":
        assert source.background is not None
        outside = data.rgba(0)[..., 3] == 0
        np.testing.assert_array_equal(data.rgba(0)[outside][:, :3], source.background[outside])
        np.testing.assert_array_equal(read_rgb(folder / "bc.jpg"), source.background)


def silhouette(head: Head, data: Dataset, index: int) -> np.ndarray:
    """Pixels covered by the tracked mesh above the neck, from stored codes and cameras alone."""
    codes = [getattr(data, name)[index:index + 1] for name in ("expression", "jaw", "eyes", "eyelids")]
    codes[0] = codes[0][:, :head.n_expression]
    vertices = pose_head(head, data.shape[index][:head.n_shape], *codes).vertices[0].double().numpy()
    camera = data.camera(index)
    pixels, depth = project(vertices, camera.R.astype(np.float64), camera.t, camera.K)
    above = head.v_template[:, 1].numpy() > -0.10
    faces = head.faces.numpy()
    buffers = rasterize_mesh(pixels, depth, faces[above[faces].all(axis=1)], camera.width, camera.height)
    return buffers.triangle >= 0


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, frames=2) for name in "ab")
    for path in sorted(first.rglob("*.png")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    records = [load_torch_dict(folder / "checkpoint" / "00001.frame") for folder in (first, second)]
    np.testing.assert_array_equal(records[0]["flame"]["exp"], records[1]["flame"]["exp"])


def test_worker_processes_draw_the_same(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "make_subject", lambda seed: subject)
    settings = Settings(frames=2, size=32)
    generate(tmp_path / "one", settings, workers=1, progress=False)
    generate(tmp_path / "two", settings, workers=2, progress=False)
    for index in range(2):
        name = Path("images") / f"{index:05d}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_motion_differs_by_seed() -> None:
    names = load_head("open").expression_names
    motions = [make_motion(50, names, np.random.default_rng((seed, 1))).expression for seed in (0, 1)]
    assert np.abs(motions[0] - motions[1]).max() > 0.2


@pytest.mark.usefixtures("quick")
def test_is_not_drawn_twice_and_replaces_only_its_own(tmp_path: Path) -> None:
    out = write(tmp_path / "demo", frames=1, size=16)
    assert not generate(out, Settings(1, 16), workers=1, progress=False)
    write(out, frames=2, size=16)
    assert len(list((out / "images").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "me.png").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="photographs: exists and is not a demo data set"):
        generate(photographs, Settings(1, 16), workers=1, progress=False)
    assert [path.name for path in photographs.iterdir()] == ["me.png"]


@pytest.mark.usefixtures("quick")
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write(tmp_path / "demo", frames=1, size=16)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generator.layout, "write_images", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generate(out, Settings(3, 16), workers=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(list((out / "images").iterdir())) == 1


@pytest.mark.parametrize("changes, message", [
    ({"frames": 0}, "frames: 1 or more expected, got 0"),
    ({"size": 8}, "size: 16 pixels or more expected, got 8"),
    ({"mode": "vhap"}, "mode 'vhap' is unknown; known are insta, nerfbs, hr"),
])
def test_senseless_settings(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


# Motion


def test_motion_stays_in_range_and_uses_the_face() -> None:
    names = load_head("open").expression_names
    motion = make_motion(600, names, np.random.default_rng(0))
    assert motion.expression.min() >= 0
    assert motion.expression.max() <= 1
    np.testing.assert_allclose(motion.R @ motion.R.transpose(0, 2, 1), np.tile(np.eye(3), (600, 1, 1)), atol=1e-12)
    yaw = np.degrees(np.arctan2(motion.turn[:, 0, 2], motion.turn[:, 2, 2]))
    assert yaw.max() > 12
    assert yaw.min() < -12
    assert np.abs(yaw).max() < 30
    peak = dict(zip(names, motion.expression.max(axis=0), strict=True))
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileRight", "browInnerUp", "browDownLeft", "noseSneerLeft"):
        assert peak[name] > 0.4


# Pictures


def shot(subject: Subject, head: Head, expression: dict[str, float], size: int = 128) -> np.ndarray:
    codes = rest_codes(head, torch.from_numpy(subject.shape), expression)
    vertices = posed_vertices(head, codes)[0]
    return render(subject, vertices, codes.expression[0].double().numpy(), R, T, np.eye(3), size)


def test_hair_edges_are_soft(subject: Subject, head: Head) -> None:
    alpha = shot(subject, head, {})[..., 3]
    assert (alpha == 255).any()
    assert (alpha == 0).any()
    top = alpha[:alpha.shape[0] // 3]
    assert ((top > 10) & (top < 245)).sum() > 150  # strands thinner than a pixel, not a cut-out


def test_expressions_change_colour_and_not_only_shape(subject: Subject, head: Head) -> None:
    """With the mesh held still, the codes alone must move the picture: wrinkles and flushes are not geometry."""
    vertices = posed_vertices(head, rest_codes(head, torch.from_numpy(subject.shape)))[0]
    codes = np.zeros(head.n_expression)
    pictures = [render(subject, vertices, codes, R, T, np.eye(3), 128)]
    codes[head.expression_names.index("browInnerUp")] = 1
    pictures.append(render(subject, vertices, codes, R, T, np.eye(3), 128))
    change = np.abs(pictures[1].astype(int) - pictures[0].astype(int))
    assert change[..., 3].max() == 0
    rows = np.flatnonzero(change[..., :3].max(axis=(1, 2)) > 12)
    assert len(rows) > 3
    assert rows.max() < 64  # on the forehead, above the middle of the picture


def test_the_open_mouth_shows_teeth_and_darkness(subject: Subject, head: Head) -> None:
    closed, opened = (shot(subject, head, {"jawOpen": value})[..., :3].astype(int) for value in (0.0, 0.9))
    mouth = (slice(82, 104), slice(54, 74))
    assert opened[mouth].sum(axis=2).min() < 150
    neutral_grey = np.ptp(opened[mouth], axis=2) < 45
    bright = opened[mouth].min(axis=2) > 120
    assert (neutral_grey & bright).sum() > 8
    assert np.abs(opened[mouth] - closed[mouth]).mean() > 15  # some 25 of 255 levels; lips alone move below 5


def test_closed_lids_hide_the_eyes(subject: Subject, head: Head) -> None:
    shut = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    pictures = [shot(subject, head, codes, 256).astype(int) for codes in ({}, shut)]
    pixels, _ = project(subject.eye_centres, R, T, intrinsics(256))
    for column, row in pixels.astype(int):
        window = (slice(row - 3, row + 4), slice(column - 5, column + 6))
        opened, closed = (picture[window][..., :3].min(axis=2) for picture in pictures)
        assert opened.min() < 70  # the pupil
        assert np.median(closed) > 110  # skin


def test_strand_coverage_is_the_strands_area() -> None:
    """A slanted line 0.3 pixels wide and 30 long covers 9 pixels in sum, whatever its direction."""
    size = 48
    for angle in (0.0, 0.3, 1.1):
        start, step = np.array([[8.3, 9.1]]), 30 * np.array([[np.cos(angle), np.sin(angle)]])
        one = np.ones(1)
        line = Segments(start, start + step, one, one, 0.15 * one, np.full((1, 3), 0.5, np.float32))
        surface = np.full((size, size), np.inf, np.float32)
        _, colour, passes = draw(line, surface, 1.0, 0.0, lambda linear: linear)
        # Samples that share a pixel hide each other a little.
        assert 8.0 < (1 - passes).sum() <= 9.001
        np.testing.assert_allclose(colour[:, 0], 0.5 * (1 - passes), rtol=1e-4)


def test_strands_behind_the_surface_are_hidden() -> None:
    one = np.ones(1)
    line = Segments(np.array([[2.0, 5]]), np.array([[14.0, 5]]), one, one, one, np.ones((1, 3), np.float32))
    surface = np.full((16, 16), np.inf, np.float32)
    surface[:, :8] = 0.9
    touched, _, _ = draw(line, surface, 1.0, 0.0, lambda linear: linear)
    assert (touched % 16).min() == 8
    touched, _, _ = draw(line, np.zeros((16, 16), np.float32), 1.0, 0.0, lambda linear: linear)
    assert len(touched) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_clip_begins_with_a_friendly_frontal_view(seed: int, head: Head) -> None:
    motion = make_motion(60, head.expression_names, np.random.default_rng((seed, 1)))
    turn = np.degrees(np.arccos(np.clip((np.trace(motion.turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert turn[0] < 2 < turn.max(), "frame 0 shows the face from the front, the clip turns it"
    first = dict(zip(head.expression_names, motion.expression[0], strict=True))
    assert first["eyeWideLeft"] > 0.3 and first["mouthSmileRight"] > 0.3
    assert max(first["eyeBlinkLeft"], first["jawOpen"], first["mouthFrownLeft"], first["browDownLeft"]) < 0.05
    assert np.abs(motion.gaze[0]).max() < np.radians(1)


def test_the_skin_is_even(subject: Subject) -> None:
    s, y = SKIN.coordinates()
    cheeks = (np.abs(np.abs(s) - 0.045) < 0.012) & (np.abs(y + 0.02) < 0.015)
    luminance = subject.skin.albedo[cheeks] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert luminance.std() / luminance.mean() < 0.1
