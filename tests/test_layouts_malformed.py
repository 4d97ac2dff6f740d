"""What can be wrong with a folder of another program's layout is named: the file, what was wanted, what arrived."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scene.convert import ConvertSettings, convert
from scene.frame import Frame
from scene.readers import open_source
from scene.writers import WRITERS
from scene.writers.codes import write_codes
from tests.heads import random_head
from tests.layout_sources import make_source
from tests.test_layouts import VIEWS, written
from tests.tracked_head import write_tracked_head
from tests.tracker_folder import image, write_folder

Change = Callable[[Path], object]


def remove(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def edit(name: str, *keys: Any, to: Any = None) -> Change:
    """Replace one value of a JSON file, or remove it (None)."""
    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        place = value
        for key in keys[:-1]:
            place = place[key]
        if to is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to
        (folder / name).write_text(json.dumps(value))
    return change


def edit_arrays(name: str, **changes: Any) -> Change:
    """Replace arrays of a .npz, or remove them (None)."""
    def change(folder: Path) -> None:
        with np.load(folder / name) as file:
            arrays = dict(file) | changes
        np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})
    return change


def picture(name: str, pixels: np.ndarray) -> Change:
    return lambda folder: cv2.imwrite(str(folder / name), pixels)


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)
    return change


SKEWED = np.diag([1.0, 1.0, 1.2, 1.0]).tolist()
PLAIN = image(0)[..., :3]
VHAP, CODES = "transforms_train.json", "codes.npz"
TRAIN = ("frames", 1)
MALFORMED: list[tuple[str, str, Change, str]] = [
    ("vhap", "no json", both(remove(VHAP), remove("transforms_val.json"), remove("transforms_test.json"),
                             remove("transforms.json")), r"transforms\.json: no such file"),
    ("vhap", "broken json", text(VHAP, "{"), r"transforms_train\.json: not a readable JSON file"),
    ("vhap", "no object", text(VHAP, "[1]"), r"transforms_train\.json: a JSON object is expected, got list"),
    ("vhap", "no frames", edit(VHAP, "frames"), r"transforms_train\.json: frames: a list of objects is expected"),
    ("vhap", "no time", edit(VHAP, *TRAIN, "timestep_index", to=-1), r"frames\[1\]: timestep_index: a whole number"),
    ("vhap", "twice", edit(VHAP, *TRAIN, "timestep_index", to=0), r"frames\[1\]: another picture of timestep_index 0"),
    ("vhap", "no path", edit(VHAP, *TRAIN, "file_path"), r"frames\[1\]: file_path: a text is expected, got nothing"),
    ("vhap", "no picture", remove("images/00001_00.png"), r"00001_00\.png: missing, though .*frames\[1\] names it"),
    ("vhap", "no mask file", remove("fg_masks/00001_00.png"), r"fg_masks.00001_00\.png: missing"),
    ("vhap", "no mask", edit(VHAP, *TRAIN, "fg_mask_path"), r"00001_00\.png: there is no mask of the head"),
    ("vhap", "mask size", picture("fg_masks/00001_00.png", PLAIN[:10]), r"fg_masks.00001_00\.png: 24 x 20 pixels"),
    ("vhap", "size", edit(VHAP, *TRAIN, "w", to=48), r"frames\[1\]: w and h are 48 x 20 pixels, but .* has 24 x 20"),
    ("vhap", "skewed", edit(VHAP, *TRAIN, "transform_matrix", to=SKEWED), r"frames\[1\]: R: a rotation is expected"),
    ("vhap", "3 x 4", edit(VHAP, *TRAIN, "transform_matrix", to=SKEWED[:3]), r"transform_matrix: shape \[4, 4\] exp"),
    ("vhap", "no lens", both(edit(VHAP, *TRAIN, "fl_x"), edit(VHAP, *TRAIN, "camera_angle_x", to=7), edit(
        VHAP, "fl_x")), r"frames\[1\]: K: focal lengths must be positive"),
    ("vhap", "huge", edit(VHAP, *TRAIN, "transform_matrix", to=[10**400]), r"transform_matrix: numbers are expected"),
    ("vhap", "no codes", remove("flame_param/00001.npz"), r"00001\.npz: no such file"),
    ("vhap", "no npz", text("flame_param/00001.npz", "hello"), r"00001\.npz: cannot be read as \.npz"),
    ("vhap", "no jaw", edit_arrays("flame_param/00001.npz", jaw_pose=None), r"00001\.npz: jaw_pose is missing; there"),
    ("vhap", "6D jaw", edit_arrays("flame_param/00001.npz", jaw_pose=np.zeros((1, 6))), r"jaw_pose: shape \[3\] expe"),
    ("vhap", "nan", edit_arrays("flame_param/00001.npz", translation=np.full((1, 3), np.nan)), r"3 of 3 numbers are"),
    ("vhap", "other count", edit_arrays("flame_param/00001.npz", expr=np.zeros((1, 50))), r"4 expression .*got 50"),
    ("vhap", "other codes", edit_arrays("flame_param/00000.npz", expr=np.ones((1, 50))), r"expression codes expected"),
    ("nersemble", "no cameras", remove("camera_params.json"), r"camera_params\.json: missing, and so are"),
    ("nersemble", "no camera", both(edit("camera_params.json", "world_2_cam", to={"7": SKEWED}),
                                    edit("camera_params.json", "intrinsics", to=np.eye(3).tolist())),
     r"no camera 0, though .* there are 7"),
    ("nersemble", "no lens", edit("camera_params.json", "intrinsics", to={"7": 0}), r"intrinsics: 0 is missing; there"),
    ("nersemble", "no poses", edit("camera_params.json", "world_2_cam"), r"world_2_cam: an object of cameras"),
    ("nersemble", "skewed", edit("camera_params.json", "world_2_cam", "0", to=SKEWED), r"camera 0: R: a rotation is"),
    ("nersemble", "no alpha", remove("alpha_maps/cam_0_00002.png"), r"alpha_maps.cam_0_00002: missing"),
    ("nersemble", "no codes", remove("flame_param"), r"no codes of the head: neither flame_param/ nor tracked_flame"),
    ("nersemble", "no time", remove("flame_param/00003.npz"), r"00003\.npz: no such file"),
    ("nersemble", "no pictures", remove("images"), r"images: no such folder"),
    ("imavatar", "no file", remove("flame_params.json"), r"no flame_params\.json, neither here nor in train/ or test/"),
    ("imavatar", "no shape", edit("flame_params.json", "shape_params"), r"flame_params\.json: shape_params is missing"),
    ("imavatar", "lens", edit("flame_params.json", "intrinsics", to=[1, 2]), r"intrinsics: shape \[4\] expected, got"),
    ("imavatar", "pose", edit("flame_params.json", *TRAIN, "pose", to=[0.0] * 6), r"pose: shape \[15\] expected, got"),
    ("imavatar", "text", edit("flame_params.json", *TRAIN, "pose", to="up"), r"pose: numbers are expected, got 'up'"),
    ("imavatar", "mirror", edit("flame_params.json", *TRAIN, "world_mat", to=(-np.eye(4)[:3]).tolist()), r"determin"),
    ("imavatar", "no mask", remove("mask/2.png"), r"mask.2: missing, though .*frames\[1\]"),
    ("imavatar", "no alpha", remove("mask"), r"1\.png: there is no mask of the head"),
    ("nerface", "codes", edit(VHAP, *TRAIN, "expression", to=[0.0] * 50), r"4 expression codes expected .*got 50"),
    ("nerface", "Face2Face", both(edit(VHAP, "shape_params"), edit(VHAP, "frames", 0, "expression", to=[0.0] * 76)),
     r"frames\[0\]: expression: 76 codes are of Face2Face's model.*track\.py"),
    ("nerface", "root", edit(VHAP, *TRAIN, "pose", to=[0.1] * 15), r"pose: the root is turned"),
    ("nerface", "scale", edit(VHAP, "scale", to=-1), r"frames\[0\]: scale: a positive number is expected, got -1"),
    ("nerface", "no alpha", picture("train/f_0001.png", PLAIN), r"f_0001\.png: there is no mask of the head"),
    ("insta_transforms", "no codes", remove("flame/exp/00001.txt"), r"00001\.txt: missing, though .*frames\[1\]"),
    ("insta_transforms", "text", text("flame/exp/00001.txt", "smile"), r"00001\.txt: numbers are expected"),
    ("insta_transforms", "nan", text("flame/exp/00001.txt", "nan"), r"00001\.txt: finite numbers are expected"),
    ("insta_transforms", "no mesh", remove("meshes/00001.obj"), r"00001\.obj: no such file"),
    ("insta_transforms", "no vertices", text("meshes/00001.obj", "# nothing"), r"00001\.obj: a mesh is expected"),
    ("insta_transforms", "reduced", text("meshes/00001.obj", "v 1 2 3\n"), r"00001\.obj: 4868 vertices are expected"),
    ("insta_transforms", "other mesh", text("meshes/00001.obj", "v 0 0.1 0\n" * 4868), r"comes no nearer than .* mm"),
    ("insta_transforms", "bad vertex", text("meshes/00001.obj", "v 1 2 x\n"), r"a vertex is no three numbers"),
    ("codes", "no codes", remove(CODES), r"neither codes\.npz nor codes\.csv nor a folder codes/"),
    ("codes", "rows", edit_arrays(CODES, exp=np.zeros((3, 4))), r"codes\.npz: exp: 4 rows are expected, .* got 3"),
    ("codes", "no shape", edit_arrays(CODES, shape=None), r"row 0: no shape codes \(under none of shape, shape_params"),
    ("codes", "twice", edit_arrays(CODES, expcode=np.zeros((4, 4))), r"exp and expcode say the same; leave one"),
    ("codes", "jaw twice", edit_arrays(CODES, pose=np.zeros((4, 6))), r"pose of 6 numbers holds jaw, which is there"),
    ("codes", "pose", edit_arrays(CODES, pose=np.zeros((4, 7))), r"pose: 3 \(root\), 6 \(root, jaw\) or 15 .* got 7"),
    ("codes", "jaw size", edit_arrays(CODES, jaw_pose=np.zeros((4, 6))), r"jaw_pose: shape \[3\] expected, got \[6\]"),
    ("codes", "no camera", remove("transforms.json"), r"row 0: no camera: neither transforms\.json nor cam"),
    ("codes", "cam", both(remove("transforms.json"), edit_arrays(CODES, cam=np.zeros((4, 3)))), r"a positive scale"),
    ("codes", "no entry", edit("transforms.json", *TRAIN), r"none has a file_path of the name 00001"),
    ("codes", "no pictures", remove("images"), r"images: no such folder"),
]


@pytest.mark.parametrize(("layout", "change", "message"), [(row[0], row[2], row[3]) for row in MALFORMED],
                         ids=[f"{row[0]}: {row[1]}" for row in MALFORMED])
def test_a_malformed_folder_is_named(tmp_path: Path, layout: str, change: Change, message: str) -> None:
    folder, _, head = written(tmp_path, layout)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(folder, layout).completed(head)


TABLES: dict[str, tuple[str, str]] = {
    "heading only": ("frame,shape_0\n", r"codes\.csv: a heading and one line for each picture are expected, got 1"),
    "ragged": ("shape_0,exp_0\n1,2\n1\n1,2\n1,2\n", r"codes\.csv: line 3: 2 values are expected as in the.*got 1"),
    "too few": ("shape_0,exp_0\n1,2\n", r"4 lines are expected, .* got 1; a column 'frame' may name the pictures"),
    "text": ("shape_0,exp_0\n" + "1,up\n" * 4, r"codes\.csv: line 2: exp_0: a number is expected, got 'up'"),
    "hole": ("shape_0,exp_0,exp_2\n" + "1,2,3\n" * 4, r"columns exp_0 to exp_2 are expected, 2 are there"),
    "unknown picture": ("frame,shape_0,exp_0\nx,1,2\n", r"x: missing, though .*codes\.csv: line 2 names it"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_malformed_table_is_named(tmp_path: Path, case: str) -> None:
    head = random_head()
    write_codes(tmp_path / "data", make_source(tmp_path / "pictures", head), head, table="csv")
    content, message = TABLES[case]
    (tmp_path / "data" / "codes.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(tmp_path / "data")


def test_codes_in_a_file_or_a_folder_for_each_picture(tmp_path: Path) -> None:
    """As EMOCA saves them: codes/NAME/exp.npy, ..."""
    folder, source, head = written(tmp_path, "codes")
    with np.load(folder / CODES) as file:
        arrays = dict(file)
    (folder / CODES).unlink()
    for index in range(4):
        one = folder / "codes" / f"{index:05d}"
        one.mkdir(parents=True)
        for name, values in arrays.items():
            np.save(one / f"{name}.npy", values[index])
    found = open_source(folder).completed(head)
    np.testing.assert_allclose(found.frames[2].tracking.expression, source.frames[2].tracking.expression)
    shutil.rmtree(folder / "codes" / "00002")
    with pytest.raises(FileNotFoundError, match=r"00002\.npz: missing, and so is a folder 00002/ of \.npy files"):
        open_source(folder)
    np.savez(folder / "codes" / "00002.npz", **{name: values[2] for name, values in arrays.items()})
    assert len(open_source(folder).frames) == 4


# Writers refuse what their layouts have no place for.


def test_writers_say_what_a_layout_has_no_place_for(tmp_path: Path) -> None:
    head = random_head()
    source = make_source(tmp_path / "pictures", head)
    for layout in ("insta", "insta_transforms"):
        with pytest.raises(ValueError, match=rf"{layout} has no place for the neck, which is turned in 0\.png"):
            WRITERS[layout](tmp_path / "a", source, head)
    camera = source.frames[1].camera
    zoomed = replace(source.frames[1], camera=replace(camera, K=camera.K * np.array([[2], [2], [1]], np.float32)))
    with pytest.raises(ValueError, match=r"has room for one lens, but K of 1\.png differs from that of 0\.png"):
        WRITERS["imavatar"](tmp_path / "b", replace(source, frames=(source.frames[0], zoomed)), head)
    rig = make_source(tmp_path / "rig", head, views=VIEWS)
    still = rig.frames[:-1]
    last: Frame = replace(rig.frames[-1], camera=replace(camera, t=camera.t + np.float32(0.1)))
    with pytest.raises(ValueError, match="its cameras stand still, but camera top has moved against the others"):
        WRITERS["nersemble"](tmp_path / "c", replace(rig, frames=(*still, last)), head)


# The answer to folders of no layout.


def test_an_unknown_folder_is_answered_with_what_is_there_and_the_nearest_layout(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path, "vhap")
    for name in ("transforms.json", VHAP, "transforms_val.json", "transforms_test.json"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no known layout; there is fg_masks/, flame_param/, head\.json, "
                       r"images/\. The nearest layout is vhap, of which transforms\*\.json is missing "
                       r"\(docs/data\.md\)\. As vhap: .*transforms\.json: no such file"):
        open_source(folder)
    (tmp_path / "film.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"From film\.mp4, track\.py makes a data set"):
        open_source(tmp_path)


def test_a_folder_above_a_data_set_names_it(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "subject")
    with pytest.raises(FileNotFoundError, match=rf"Its folder subject is of layout insta: give {data}\. As"):
        open_source(tmp_path)


# python -m scene.convert


def test_convert_writes_a_folder_or_nothing(tmp_path: Path) -> None:
    data, out = write_tracked_head(tmp_path / "data", 3), tmp_path / "out"
    with pytest.raises(ValueError, match="--to colmap: unknown; known are insta, vhap, imavatar"):
        convert(ConvertSettings(data, out, "colmap"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        convert(ConvertSettings(tmp_path / "nowhere", out, "vhap"))
    assert not out.exists()
    convert(ConvertSettings(data, out, "vhap"))
    assert len(open_source(out).frames) == 3
    with pytest.raises(FileExistsError, match=r"out: exists and is not empty; give another --output"):
        convert(ConvertSettings(data, out, "vhap"))
