"""The tracker layout: its three modes, and everything that can be wrong with a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from arguments import DataSettings, TrainSettings, parse_flags
from scene.data import open_data, open_dataset
from scene.dataset import Dataset
from scene.frame import Camera, FloatArray, Tracking
from scene.readers import READERS, MeshCounts, Reader, Source, open_source
from scene.split import Split
from tests.tracker_folder import HEIGHT, WIDTH, image, record, write_folder, write_png, write_record
from utils.safe_pickle import DamagedFileError, UnsafePickleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def test_default_mode_reads_codes_and_cameras(folder: Path) -> None:
    source = open_source(folder)
    assert [frame.index for frame in source.frames] == [0, 1, 2, 3]
    frame = source.frames[3]
    np.testing.assert_array_equal(frame.camera.R, record(3)["opencv"]["R"][0])
    np.testing.assert_array_equal(frame.camera.K, record(3)["opencv"]["K"][0])
    assert (frame.camera.width, frame.camera.height) == (WIDTH, HEIGHT)
    assert frame.tracking.expression.shape == (100,)
    assert frame.tracking.expression[0] == np.float32(0.03)
    np.testing.assert_array_equal(frame.tracking.eyelids, np.array([0.2, 0.3], np.float32))
    assert frame.image_path == folder / "images" / "00003.png"
    assert frame.mask_path is None
    assert source.mesh == MeshCounts(vertices=4, triangles=2)
    assert (source.background, source.head, source.teeth_offset) == (None, None, None)
    assert source.default_test_frames == 350


def test_whole_photograph_mode_has_masks_and_background(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "data", mode="nerfbs"), "nerfbs")
    assert source.frames[2].mask_path == tmp_path / "data" / "image_mask" / "mask_00002.png"
    assert source.background is not None
    assert source.background.shape == (HEIGHT, WIDTH, 3)
    assert (source.background == 77).all()
    assert source.default_test_frames == 500


def test_high_resolution_mode_scales_the_intrinsics(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "data", mode="hr"), "hr")
    camera = source.frames[1].camera
    assert (camera.width, camera.height) == (2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(camera.K[:2], 2 * record(1)["opencv"]["K"][0, :2])
    assert source.default_test_frames == 350


def test_high_resolution_ratio_follows_from_the_principal_point_without_img_size(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", frames=1, mode="hr")
    content = record(0)
    del content["img_size"]
    write_record(data, 0, content)
    np.testing.assert_allclose(open_source(data, "hr").frames[0].camera.K[:2], 2 * content["opencv"]["K"][0, :2])


def test_optional_files_are_read(folder: Path) -> None:
    (folder / "offset.txt").write_text("0.001 -0.002\n0.003\n")
    (folder / "head.json").write_text(json.dumps({"head": "open"}))
    (folder / "canonical.obj").unlink()
    source = open_source(folder)
    assert source.head == "open"
    assert source.mesh is None
    assert source.teeth_offset is not None
    np.testing.assert_allclose(source.teeth_offset, [0.001, -0.002, 0.003], rtol=1e-6)


def test_arrays_are_read_only(folder: Path) -> None:
    frame = open_source(folder).frames[0]
    for array in (frame.camera.R, frame.camera.K, frame.tracking.expression):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
    return change


def edit(index: int, group: str, key: str, value: Any) -> Callable[[Path], None]:
    """Replace one value of a record; None removes it."""
    def change(folder: Path) -> None:
        content = record(index)
        if value is None:
            del content[group][key]
        else:
            content[group][key] = value
        write_record(folder, index, content)
    return change


def rename(name: str, other: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename((folder / name).with_name(other))
    return change


def replace_image(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: write_png(folder / name, pixels)


def data_file(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


SKEWED = np.diag([1.0, 1.0, 1.1])[None]
NAN_CODES = np.full((1, 100), np.nan, np.float32)
MALFORMED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "gap": ("insta", remove("checkpoint/00002.frame"), r"00002\.frame: missing, though 00003\.frame exists"),
    "no first": ("insta", remove("checkpoint/00000.frame"), r"00000\.frame: missing"),
    "no image": ("insta", remove("images/00001.png"), r"images.00001\.png: missing"),
    "no mask": ("nerfbs", remove("image_mask/mask_00003.png"), r"mask_00003\.png: missing"),
    "no background": ("nerfbs", remove("bc.jpg"), r"bc\.jpg: missing"),
    "no eyelids": ("insta", edit(2, "flame", "eyelids", None), r"eyelids is missing; flame holds .*stores zeros"),
    "axis-angle": ("insta", edit(2, "flame", "jaw", np.zeros((1, 3))), r"flame\.jaw: 3 numbers, which are axis-angle"),
    "no key": ("insta", edit(2, "flame", "jaw", None), r"00002\.frame: flame\.jaw is missing"),
    "no camera": ("insta", edit(1, "opencv", "K", None), r"00001\.frame: opencv\.K is missing"),
    "text for numbers": ("insta", edit(1, "flame", "exp", "smile"), r"00001\.frame: flame\.exp is not an array"),
    "huge number": ("insta", edit(1, "flame", "exp", [10**400]), r"00001\.frame: flame\.exp is not an array"),
    "wrong axes": ("insta", edit(1, "flame", "exp", np.zeros((2, 100))), r"00001\.frame: flame\.exp: 1 axes"),
    "other count": ("insta", edit(1, "flame", "exp", np.zeros((1, 50))), r"00001\.frame: 100 expression codes.*got 50"),
    "jaw size": ("insta", edit(1, "flame", "jaw", np.zeros((1, 5))), r"00001\.frame: jaw: shape \[6\] expected"),
    "nan": ("insta", edit(3, "flame", "exp", NAN_CODES), r"00003\.frame: expression: 100 of 100 numbers"),
    "no rotation": ("insta", edit(3, "opencv", "R", SKEWED), r"00003\.frame: R: a rotation is expected"),
    "mirror": ("insta", edit(3, "opencv", "R", np.diag([1.0, 1, -1])[None]), r"00003\.frame: R: a rotation.*-1"),
    "no 6D": ("insta", edit(3, "flame", "eyes", np.zeros((1, 12))), r"00003\.frame: left eye: .* is no 6D rotation"),
    "focal": ("insta", edit(0, "opencv", "K", np.diag([-1.0, 1, 1])[None]), r"00000\.frame: K: focal lengths"),
    "K row": ("insta", edit(0, "opencv", "K", np.ones((1, 3, 3))), r"00000\.frame: K: the last row must be"),
    "no alpha": ("insta", replace_image("images/00002.png", image(2)[..., :3]), r"00002\.png: an RGBA image"),
    "grey": ("insta", replace_image("images/00002.png", image(2)[..., 0]), r"00002\.png: an RGBA image.*got 1 channel"),
    "size": ("insta", replace_image("images/00002.png", image(2, 48, 40)), r"00002\.frame: tracked at 24.*48 x 40"),
    "other name": ("insta", rename("images/00001.png", "00001.jpg"), r"00001\.png: missing.*images holds 00000\.png, "),
    "empty folder": ("hr", remove(*(f"images.HQ/0000{i}.png" for i in range(4))), r"the folder images\.HQ is empty"),
    "not a png": ("insta", text("images/00001.png", "hello"), r"00001\.png: not a PNG file"),
    "short header": ("insta", data_file("images/00001.png", b"\x89PNG\r\n\x1a\n\0\0"), r"00001\.png: truncated PNG"),
    "mask size": ("nerfbs", replace_image("image_mask/mask_00000.png", image(0, 12, 10)), r"mask_00000\.png: 24 x 20"),
    "aspect": ("hr", replace_image("images.HQ/00000.png", image(0, 48, 48)), r"00000\.frame: tracked at.*aspect ratio"),
    "mixed sizes": ("hr", replace_image("images.HQ/00003.png", image(3)), r"00003\.png: 48 x 40 pixels.*got 24 x 20"),
    "offset": ("insta", text("offset.txt", "1 2"), r"offset\.txt: 3 finite numbers are expected, got \[1\.0, 2\.0\]"),
    "offset text": ("insta", text("offset.txt", "a b c"), r"offset\.txt: 3 numbers are expected"),
    "head": ("insta", text("head.json", "{}"), r'head\.json: \{"head": NAME\} is expected'),
    "deep head": ("insta", text("head.json", "[" * 100_000), r"head\.json: .* is expected .*nested too deeply"),
    "head type": ("insta", text("head.json", '{"head": 3}'), r"head\.json: head: a name is expected, got 3"),
    "obj": ("insta", text("canonical.obj", "# nothing\n"), r"canonical\.obj: a mesh is expected, got 0 vertices"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_folder_is_named(tmp_path: Path, case: str) -> None:
    mode, change, message = MALFORMED[case]
    data = write_folder(tmp_path / "data", mode=mode)
    change(data)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(data, mode)


def test_sixteen_bit_images_are_read(folder: Path) -> None:
    write_png(folder / "images" / "00001.png", image(1).astype(np.uint16) * 257)
    data = Dataset(open_source(folder), Split(test_frames=1), progress=False)
    np.testing.assert_array_equal(data.rgba(1), image(1))


def test_background_of_another_size(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", mode="nerfbs")
    cv2.imwrite(str(data / "bc.jpg"), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"bc\.jpg: 24 x 20 pixels expected as the frames, got 12 x 10"):
        open_source(data, "nerfbs")


def test_img_size_without_sense(folder: Path) -> None:
    write_record(folder, 0, record(0) | {"img_size": np.array([512])})
    with pytest.raises(ValueError, match=r"00000\.frame: img_size: height and width"):
        open_source(folder)


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="checkpoint: no such folder"):
        open_source(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(FileNotFoundError, match=r"checkpoint: no \.frame files"):
        open_source(tmp_path)


def test_an_unknown_layout_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match="--layout colmap: unknown; known are auto, insta, nerfbs, hr, cameras, vhap"):
        open_source(folder, "colmap")


@pytest.mark.parametrize("mode", ["insta", "nerfbs", "hr"])
def test_layouts_are_recognised_by_what_is_there(tmp_path: Path, mode: str) -> None:
    found, told = (open_source(write_folder(tmp_path / "data", mode=mode), layout) for layout in ("auto", mode))
    assert found.frames[0].image_path == told.frames[0].image_path
    assert (found.background is None) == (mode != "nerfbs")
    # A folder with alpha is of the default layout, whatever else lies in it.
    (write_folder(tmp_path / "data") / "image_mask").mkdir(exist_ok=True)
    assert open_source(tmp_path / "data").background is None


@pytest.mark.parametrize("flags", [("use_HR", "use_nerfBS"), ("use_HR", "layout")])
def test_one_layout_is_chosen(folder: Path, flags: tuple[str, str]) -> None:
    values: dict[str, Any] = {"use_HR": True, "use_nerfBS": True, "layout": "insta"}
    with pytest.raises(ValueError, match=f"--{flags[0]}.* and |choose one"):
        open_data(DataSettings(folder, **{flag: values[flag] for flag in flags}))
    same = DataSettings(folder, layout="hr", use_HR=True)
    with pytest.raises(FileNotFoundError, match="images.HQ"):
        open_data(same)


def test_a_reader_added_to_the_table_is_chosen_by_name_and_by_content(
    folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As CONTRIBUTING says: a function that returns a Source and a row in the table."""
    def read(path: Path) -> Source:
        return replace(open_source(path, "insta"), head=(path / "dummy.txt").read_text())

    monkeypatch.setitem(READERS, "dummy", Reader(read, lambda path: (path / "dummy.txt").is_file()))
    (folder / "dummy.txt").write_text("open")
    run = ["-s", str(folder), "-m", "OUT"]
    chosen = parse_flags(TrainSettings, "train.py", [*run, "--layout", "dummy"]).data
    assert open_data(chosen).head == "open"
    assert len(open_dataset(chosen, open_data(chosen)).train_indices) == 4
    (folder / "images").rename(folder / "pictures")  # now only the new reader knows the folder
    monkeypatch.setitem(READERS, "dummy", Reader(lambda path: source, lambda path: (path / "dummy.txt").is_file()))
    source = Source((), None, 350, head="mine")
    assert open_data(parse_flags(TrainSettings, "train.py", run).data).head == "mine"
    with pytest.raises(ValueError, match="known are auto, insta, .*, dummy"):
        open_source(folder, "dumy")


class Boom:
    """Unpickling this object would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_pictures_without_a_record_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = len(list((folder / "checkpoint").iterdir()))
    open_source(folder)
    assert not caplog.text
    for number in (count, count + 1):
        (folder / "images" / f"{number:05d}.png").write_bytes((folder / "images" / "00000.png").read_bytes())
    assert len(open_source(folder).frames) == count
    assert f"left out, for checkpoint/ holds no records of them: {count:05d}.png to {count + 1:05d}.png" in caplog.text


def test_a_malicious_record_runs_nothing(folder: Path, tmp_path: Path) -> None:
    write_record(folder, 1, record(1) | {"extra": Boom(tmp_path / "boom")})
    open_source(folder)  # nobody reads that key
    write_record(folder, 1, record(1) | {"img_size": Boom(tmp_path / "boom")})
    with pytest.raises(UnsafePickleError, match=r"00001\.frame: img_size: refused the global"):
        open_source(folder)
    assert not (tmp_path / "boom").exists()


def test_a_truncated_record(folder: Path) -> None:
    path = folder / "checkpoint" / "00001.frame"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DamagedFileError, match=r"00001\.frame"):
        open_source(folder)


def zeros(*shape: int) -> FloatArray:
    return np.zeros(shape, np.float32)


def test_camera_and_tracking_refuse_nonsense() -> None:
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"t: shape \[3\] expected, got \[2\]"):
        Camera(eye, zeros(2), eye, 4, 4)
    with pytest.raises(ValueError, match="size must be positive, got 0 x 4"):
        Camera(eye, zeros(3), eye, 0, 4)
    with pytest.raises(ValueError, match=r"shape: shape \['any'\] expected, got \[1, 3\]"):
        Tracking(zeros(1, 3), zeros(2), zeros(6), zeros(12), zeros(2))


def test_resized_camera_sees_the_same_point_at_the_same_share_of_the_image() -> None:
    K = np.array([[30, 0, 11], [0, 28, 9], [0, 0, 1]], np.float32)
    camera = Camera(np.eye(3, dtype=np.float32), np.array([0.01, 0.02, 0.7], np.float32), K, 24, 20)
    small = camera.resized(7, 13)
    point = np.array([0.05, -0.03, 0.1])

    def place(view: Camera) -> np.ndarray:
        u, v, w = view.K @ (view.R @ point + view.t)
        return np.array([u / w / view.width, v / w / view.height])

    np.testing.assert_allclose(place(small), place(camera), rtol=1e-6)  # float32 intrinsics
