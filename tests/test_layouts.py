"""Layouts of other programs: written and read they say the same, and they say what those programs mean by them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from arguments import DataSettings, ModelSettings
from flame import Head, load_head, pose_head
from scene.clip import head_of, load_clip, save_clip
from scene.dataset import Dataset
from scene.readers import Source, layout_of, open_source
from scene.split import Split
from scene.writers import WRITERS
from scene.writers.codes import write_codes
from scene.writers.common import picture_of
from tests.heads import random_head
from tests.layout_sources import assert_same, head_of_source, make_source
from tests.tracker_folder import image
from training.world import open_world
from utils.arrays import write_npz
from utils.images import read_rgb, write_image

VIEWS = ("left", "right", "top")
ONE_CAMERA = ("insta", "imavatar", "nerface", "insta_transforms", "codes")
STIFF = ("insta", "insta_transforms")  # no neck
SEVERAL = ("vhap", "nersemble")
OBJ_ROUNDING = 1e-4  # codes found from meshes whose vertices are rounded to a micrometre; 1e-5 was seen
IDENTITIES = 10  # of the open head's, of which the last hardly move anything


@cache
def open_head() -> Head:
    head = load_head("open")
    return replace(head, shape_dirs=head.shape_dirs[:, :, :IDENTITIES])


def head_for(layout: str) -> Head:
    """Meshes are fitted with a head that moves like one; the others get one with dense weights and correctives."""
    return open_head() if layout == "insta_transforms" else random_head()


def written(folder: Path, layout: str, **options: Any) -> tuple[Path, Source, Head]:
    """A folder of the layout, the source that it was written from, and the head model with its static offset."""
    head = head_for(layout)
    source = make_source(folder / "pictures", head, neck=layout not in STIFF, **options)
    head = head_of_source(head, source)
    WRITERS[layout](folder / "data", source, head)
    return folder / "data", source, head


@pytest.mark.parametrize("layout", WRITERS)
def test_there_and_back(tmp_path: Path, layout: str) -> None:
    folder, source, head = written(tmp_path, layout)
    assert layout_of(folder) == layout
    found = open_source(folder).completed(head)
    assert_same(found, source, OBJ_ROUNDING if layout == "insta_transforms" else 1e-6)
    assert found.head == "open"
    for got, want in zip(found.frames, source.frames, strict=True):
        for mine, theirs in zip(picture_of(got), picture_of(want), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("layout", SEVERAL)
def test_several_cameras_there_and_back(tmp_path: Path, layout: str) -> None:
    folder, source, head = written(tmp_path, layout, views=VIEWS, offset=True)
    found = open_source(folder)
    assert_same(found.completed(head), source)
    assert found.static_offset is not None
    assert source.static_offset is not None
    np.testing.assert_array_equal(found.static_offset, source.static_offset)


@pytest.mark.parametrize("layout", ONE_CAMERA)
def test_one_camera_is_all_that_some_layouts_hold(tmp_path: Path, layout: str) -> None:
    head = head_for(layout)
    source = make_source(tmp_path / "pictures", head, times=1, views=VIEWS)
    with pytest.raises(ValueError, match=f"layout {layout} has room for one camera, the data set has 3: left, right"):
        WRITERS[layout](tmp_path / "data", source, head)


def test_codes_as_a_table_of_text(tmp_path: Path) -> None:
    head = random_head()
    source = make_source(tmp_path / "pictures", head)
    write_codes(tmp_path / "data", source, head, table="csv")
    assert not (tmp_path / "data" / "codes.npz").exists()
    assert_same(open_source(tmp_path / "data").completed(head), source)


def test_a_sequence_of_smaller_jpegs_with_one_file_of_codes(tmp_path: Path) -> None:
    """NeRSemble's K is of full pictures, and trackers save all moments together; cameras lie two folders above."""
    folder, source, head = written(tmp_path, "nersemble", views=VIEWS, offset=True)
    sequence = tmp_path / "037" / "EMO-1"
    shutil.copytree(folder, sequence)
    moments = [dict(np.load(file)) for file in sorted((sequence / "flame_param").iterdir())]
    shutil.rmtree(sequence / "flame_param")
    arrays = {name: np.concatenate([moment[name] for moment in moments]) for name in moments[0]
              if name not in ("shape", "static_offset")}
    shared = {name: moments[0][name] for name in ("shape", "static_offset")}
    write_npz(sequence / "tracked_flame_params_30.npz", arrays | shared)
    cameras = read_json(sequence / "camera_params.json")
    cameras["intrinsics"] = {view: (np.diag([2, 2, 1]) @ K).tolist() for view, K in cameras["intrinsics"].items()}
    (sequence / "camera_params.json").unlink()
    (tmp_path / "camera_params" / "037").mkdir(parents=True)
    (tmp_path / "camera_params" / "037" / "camera_params.json").write_text(json.dumps(cameras))
    for file in (sequence / "images").iterdir():
        write_image(file.with_suffix(".jpg"), read_rgb(file))
        file.unlink()
    assert layout_of(sequence) == "nersemble"
    assert_same(open_source(sequence).completed(head), source)
    write_npz(sequence / "tracked_flame_params_30.npz", arrays | shared | {"expr": arrays["expr"][:2]})
    with pytest.raises(ValueError, match=r"expr: 4 rows are expected, one for each time in images/, got 2"):
        open_source(sequence)


def test_training_and_test_parts_of_imavatar_follow_each_other(tmp_path: Path) -> None:
    folder, source, head = written(tmp_path, "imavatar")
    shutil.move(folder, tmp_path / "subject" / "train")
    shutil.copytree(tmp_path / "subject" / "train", tmp_path / "subject" / "test")
    shutil.copy(tmp_path / "subject" / "train" / "head.json", tmp_path / "subject")
    found = open_source(tmp_path / "subject").completed(head)
    assert [frame.image_path.parent.parent.name for frame in found.frames] == ["train"] * 4 + ["test"] * 4
    assert_same(replace(found, frames=found.frames[:4]), source)


# What a layout says: the pixels of posed vertices, by the definitions of those programs, in double precision.

Pixels = Callable[[Path, int, np.ndarray, np.ndarray], np.ndarray]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def opengl_pixels(entry: dict[str, Any], points: np.ndarray) -> np.ndarray:
    """NeRF: the inverse of the camera's matrix, looking along -z with y up."""
    seen = np.linalg.inv(np.array(entry["transform_matrix"])) @ np.column_stack([points, np.ones(len(points))]).T
    x, y, z = seen[:3]
    return np.column_stack([entry["cx"] + entry["fl_x"] * x / -z, entry["cy"] - entry["fl_y"] * y / -z])


def moved(codes: Any, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """FLAME's root: a turn about its joint, then the translation."""
    turn = Rotation.from_rotvec(codes["rotation"][0].astype(float)).as_matrix()
    return (points - joint) @ turn.T + joint + codes["translation"][0]


def vhap_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    entry = read_json(folder / "transforms.json")["frames"][index]
    with np.load(folder / entry["flame_param_path"]) as codes:
        return opengl_pixels(entry, moved(codes, points, joint))


def nersemble_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    cameras = read_json(folder / "camera_params.json")
    with np.load(folder / "flame_param" / f"{index:05d}.npz") as codes:
        world = moved(codes, points, joint)
    seen = np.array(cameras["world_2_cam"]["0"]) @ np.column_stack([world, np.ones(len(world))]).T
    projected = np.array(cameras["intrinsics"]["0"]) @ seen[:3]
    return (projected[:2] / projected[2]).T


def imavatar_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """A head of four times the size; K applied to x / z and y / z with the signs as they are, shares of a picture."""
    values = read_json(folder / "flame_params.json")
    frame = values["frames"][index]
    turn = Rotation.from_rotvec(frame["pose"][:3]).as_matrix()
    large = 4 * ((points - joint) @ turn.T + joint)
    x, y, z = np.array(frame["world_mat"]) @ np.column_stack([large, np.ones(len(large))]).T
    fx, fy, cx, cy = values["intrinsics"]
    assert fx < 0 < fy
    assert (z < 0).all()  # in front of a camera that looks along -z
    return np.column_stack([24 * (fx * x / z + cx), 20 * (fy * y / z + cy)])


def nerface_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Rays ((i - cx) / |fx|, -(j - cy) / fy, -1) of the camera's matrix, in units that `scale` tells."""
    del joint
    frames = [(part, entry) for name in ("train", "test")
              for part in [read_json(folder / f"transforms_{name}.json")] for entry in part["frames"]]
    shared, entry = frames[index]
    fx, fy, cx, cy = shared["intrinsics"]
    lens = {"fl_x": abs(fx), "fl_y": fy, "cx": 24 * cx, "cy": 20 * cy}
    return opengl_pixels(lens | entry, shared["scale"] * points)


def insta_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """OpenCV's axes, and the vertices of the frame's own mesh."""
    del joint
    shared = read_json(folder / "transforms.json")
    entry = shared["frames"][index]
    lines = (folder / entry["mesh_path"]).read_text().splitlines()
    mesh = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    np.testing.assert_allclose(mesh, points, atol=1e-5)  # written with six decimals, posed in single precision
    camera = np.linalg.inv(np.array(entry["transform_matrix"]))
    x, y, z = (camera @ np.column_stack([points, np.ones(len(points))]).T)[:3]
    return np.column_stack([shared["cx"] + shared["fl_x"] * x / z, shared["cy"] + shared["fl_y"] * y / z])


def codes_pixels(folder: Path, index: int, points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    del joint
    shared = read_json(folder / "transforms.json")
    return opengl_pixels(shared | shared["frames"][index], points)


DEFINITIONS: dict[str, Pixels] = {
    "vhap": vhap_pixels, "nersemble": nersemble_pixels, "imavatar": imavatar_pixels, "nerface": nerface_pixels,
    "insta_transforms": insta_pixels, "codes": codes_pixels,
}


@pytest.mark.parametrize("layout", DEFINITIONS)
def test_a_layout_means_what_its_program_does(tmp_path: Path, layout: str) -> None:
    folder, source, head = written(tmp_path, layout, offset=layout == "vhap")
    found = open_source(folder, layout).completed(head)
    for index in (0, 3):
        tracking = source.frames[index].tracking
        row = {name: torch.from_numpy(getattr(tracking, name).astype(float))[None]
               for name in ("expression", "jaw", "eyes", "eyelids")}
        neck = None if tracking.neck is None else torch.from_numpy(tracking.neck.astype(float))[None]
        posed = pose_head(head, torch.from_numpy(tracking.shape.astype(float)), **row, neck=neck)
        points, camera = posed.vertices[0].numpy(), found.frames[index].camera
        seen = (points @ camera.R.T.astype(float) + camera.t) @ camera.K.T.astype(float)
        defined = DEFINITIONS[layout](folder, index, points, posed.joints[0, 0].numpy())
        # Pixels are up to 1e3 here (the random head is metres large), numbers in files are float32 or better.
        np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], defined, rtol=1e-4, atol=1e-3)


def test_networks_that_track_crops_have_cameras_without_perspective(tmp_path: Path) -> None:
    """DECA: a point of the turned head lies at scale * (X + x, Y + y) of a crop from -1 to 1, y up."""
    head = random_head()
    source = make_source(tmp_path / "pictures", head)
    write_codes(tmp_path / "data", source, head)
    (tmp_path / "data" / "transforms.json").unlink()
    turns, cam = np.random.default_rng(1).normal(0, 0.2, (4, 6)), np.array([[9.0, 0.01, -0.02]] * 4)
    with np.load(tmp_path / "data" / "codes.npz") as codes:
        kept = {name: codes[name] for name in ("shape", "exp")}
    np.savez(tmp_path / "data" / "codes.npz", pose=turns, cam=cam, **kept)
    found = open_source(tmp_path / "data").completed(head)
    for frame, turn in zip(found.frames, turns, strict=True):
        directions = torch.cat([head.shape_dirs, head.expression_dirs], dim=2).double().numpy()
        identity = np.concatenate([frame.tracking.shape, frame.tracking.expression])
        root = head.joint_regressor[0].double().numpy() @ (head.v_template.double().numpy() + directions @ identity)
        R = Rotation.from_rotvec(turn[:3]).as_matrix()
        flat = np.array([[0.05, -0.03, 0.0]])  # in the plane of the world's origin a long lens has no perspective
        head_point = (flat - root) @ R + root
        seen = (head_point @ frame.camera.R.T + frame.camera.t) @ frame.camera.K.T
        crop = 9.0 * (flat[0, :2] + cam[0, 1:])
        expected = [24 / 2 * (1 + crop[0]), 20 / 2 - 24 / 2 * crop[1]]
        np.testing.assert_allclose(seen[0, :2] / seen[0, 2], expected, atol=1e-3)
        np.testing.assert_allclose(frame.tracking.jaw[:3], Rotation.from_rotvec(turn[3:]).as_matrix()[0], atol=1e-6)


# What the rest of the program makes of them.


def test_a_source_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path, "vhap")
    with pytest.raises(ValueError, match="the source is not complete"):
        Dataset(open_source(folder), Split(test_frames=0), progress=False)


def test_a_mask_beside_the_picture_weighs_its_colour(tmp_path: Path) -> None:
    """As an alpha channel does: what lies outside of the mask never bleeds in."""
    folder, source, head = written(tmp_path, "imavatar")
    data, plain = (Dataset(some, Split(test_frames=0), resolution=2, progress=False)
                   for some in (open_source(folder).completed(head), source))
    np.testing.assert_array_equal(data.rgba(2), plain.rgba(2))
    assert data.rgba(2).shape == (10, 12, 4)
    assert (image(2)[..., 3] < 255).any()


def test_neck_and_static_offset_reach_the_rig_and_stay_with_the_clip(tmp_path: Path) -> None:
    """From an export of VHAP to the posed mesh of training, and to that of an avatar without its data set."""
    head = load_head("open")
    source = make_source(tmp_path / "pictures", head, times=2, offset=True)
    WRITERS["vhap"](tmp_path / "data", source, head_of_source(head, source))
    world = open_world(DataSettings(tmp_path / "data", test_frames=0), ModelSettings(num_teeth_gaussians=10), 0,
                       torch.device("cpu"))
    tracking = [frame.tracking for frame in source.frames]
    codes = {name: torch.from_numpy(np.stack([getattr(row, name) for row in tracking]))
             for name in ("expression", "jaw", "eyes", "eyelids", "neck")}
    wanted = pose_head(head_of_source(head, source), torch.from_numpy(tracking[0].shape.copy()), **codes).vertices
    torch.testing.assert_close(world.rig.posed.vertices, wanted, rtol=0, atol=1e-5)  # metres; float32 codes
    save_clip(world.clip, tmp_path)
    clip = load_clip(tmp_path)
    kept = pose_head(head_of(clip), clip.codes.shape, clip.codes.expression, clip.codes.jaw, clip.codes.eyes,
                     clip.codes.eyelids, clip.codes.neck).vertices
    same = [(getattr(clip.codes, name), getattr(world.clip.codes, name)) for name in ("shape", *codes)]
    same += [(value, vars(world.head)[name]) for name, value in vars(head_of(clip)).items() if torch.is_tensor(value)]
    assert len(same) > 12 and all(torch.equal(*pair) for pair in same)
    # From equal numbers: sums in the order that suits where arrays lie in memory, a few last places of 0.1 m apart.
    torch.testing.assert_close(kept, world.rig.posed.vertices, rtol=0, atol=5e-8)
