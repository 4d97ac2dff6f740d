"""Several cameras: which picture shows what, splits by moment and camera, mixed sizes, the reader of the layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import DataSettings
from scene.clip import Clip, load_clip, save_clip
from scene.data import open_data, open_dataset
from scene.dataset import Dataset
from scene.frame import Camera
from scene.readers import open_source
from scene.recording import PARTS, Recording
from scene.rig import Codes
from scene.size_sampler import SizeSampler, training_sampler
from scene.split import EpochSampler, Split, describe_split
from tests.camera_folder import OTHER, write_cameras
from tests.tracker_folder import HEIGHT, WIDTH, image, record, write_folder, write_png, write_record
from utils.images import letterbox, margins


def ring(cameras: int, moments: int) -> Recording:
    """Every camera at every moment, camera after camera."""
    return Recording(np.tile(np.arange(moments), cameras), np.repeat(np.arange(cameras), moments),
                     tuple(f"c{number}" for number in range(cameras)))


# Splits


@settings(max_examples=60, deadline=None)
@given(cameras=st.integers(2, 6), moments=st.integers(2, 30), test=st.integers(0, 29), held=st.integers(0, 5),
       kind=st.sampled_from(["tail", "blocks"]))
def test_split_laws(cameras: int, moments: int, test: int, held: int, kind: str) -> None:
    """Train and test share nothing; a training frame's moment and camera both train; the parts tell the rest apart."""
    recording, test, held = ring(cameras, moments), min(test, moments - 1), min(held, cameras - 1)
    names = recording.cameras[:held] or ("none",)
    split = Split(kind, test, 1, names)  # type: ignore[arg-type]
    if kind == "blocks" and 0 < test > moments - 2:
        return
    train, out = split.of(recording, 350)
    assert sorted([*train, *out]) == list(range(len(recording)))
    assert len(train) == (cameras - held) * (moments - test)
    assert len(set(recording.time[train].tolist())) == moments - test
    assert not set(recording.view[train].tolist()) & set(range(held))
    parts = recording.parts(train, out)
    assert sorted(frame for frames in parts.values() for frame in frames) == out.tolist()
    counts = (held * (moments - test), (cameras - held) * test, held * test)
    assert {name: len(frames) for name, frames in parts.items()} == {
        name: count for name, count in zip(PARTS, counts, strict=True) if count}
    assert sum(map(len, recording.by_camera(out).values())) == len(out)


def test_by_time_by_camera_or_both() -> None:
    recording = ring(4, 10)
    by_time, by_camera = Split(test_frames=3, cameras=("none",)), Split(test_frames=0, cameras=("c2",))
    assert set(recording.parts(by_time.of(recording, 350)[0], range(40))) == {"novel_expression"}
    assert set(recording.parts(by_camera.of(recording, 350)[0], range(40))) == {"novel_view"}
    assert set(recording.parts(Split(test_frames=3, cameras=("c2", "c0")).of(recording, 350)[0], range(40))) == {*PARTS}


def test_four_cameras_hold_out_one_and_fewer_none() -> None:
    for cameras, held in ((2, set()), (3, set()), (4, {1}), (9, {1})):
        assert ring(cameras, 10).held_out_cameras(["auto"]) == held
    shuffled = Recording(np.zeros(4, np.int64), np.arange(4), ("d", "b", "c", "a"))
    assert shuffled.held_out_cameras(["auto"]) == {1}, "by name, not by place"


def test_one_camera_splits_as_ever() -> None:
    for split in (Split(), Split("blocks", 20, 4), Split(test_frames=0)):
        for got, wanted in zip(split.of(Recording.single(100), 350), split.indices(100, 350), strict=True):
            assert np.array_equal(got, wanted)
    assert Recording.single(100).parts(np.arange(80), range(100)) == {}
    assert Recording.single(100).by_camera(range(100)) == {}


def test_the_split_of_several_cameras_is_described() -> None:
    recording = ring(4, 10)
    train, test = Split(cameras=("c1", "c3")).of(recording, 350)
    assert describe_split(train, test, recording) == (
        "16 frames train, 24 held out (moments 8 to 9 of 0 to 9; of 4 cameras c1, c3): 16 novel view, "
        "4 novel expression, 4 both")
    train, test = Split(test_frames=0, cameras=("none",)).of(recording, 350)
    assert describe_split(train, test, recording) == "40 frames train, none held out"


@pytest.mark.parametrize(("names", "message"), [
    (("c7",), "--test_cameras c7: no such camera; there are c0, c1"),
    (("c0", "c1"), "--test_cameras: no camera left to train with: all 2 are held out"),
])
def test_cameras_that_cannot_be_held_out(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(cameras=names).of(ring(2, 10), 350)
    with pytest.raises(ValueError, match="no such camera; there are no names, for there is only one"):
        Split(cameras=("c0",)).of(Recording.single(10), 350)


def test_cameras_without_a_training_moment() -> None:
    late = Recording(np.array([0, 1, 2, 3, 3]), np.array([0, 0, 0, 0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="no training frames left: the cameras that train have no picture"):
        Split(test_frames=1, cameras=("a",)).of(late, 350)


def test_each_moment_has_a_reference_picture() -> None:
    """That of the camera with the most pictures; where it has none, the first."""
    recording = Recording(np.array([0, 2, 0, 1, 2, 1]), np.array([0, 0, 1, 1, 1, 2]), ("a", "b", "c"))
    assert recording.reference.tolist() == [2, 3, 4]
    assert Recording(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), ("a", "b")).reference.tolist() == [0, 1, 3]
    assert Recording.single(4).reference.tolist() == [0, 1, 2, 3]


# The order of training where sizes differ


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=4), batch=st.integers(1, 5), stop=st.integers(0, 15))
def test_batches_of_one_size_go_on_as_if_never_stopped(counts: list[int], batch: int, stop: int) -> None:
    groups = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    sampler = SizeSampler(groups, batch, 3)
    ahead = sampler.peek(batch * (stop + 6)).reshape(-1, batch)
    drawn = np.stack([sampler.next() for _ in range(stop + 6)])
    assert np.array_equal(drawn, ahead)
    for indices in drawn:
        assert any(set(indices) <= set(group) for group in groups)
    first, second = SizeSampler(groups, batch, 3), SizeSampler(groups, batch, 4)
    for _ in range(stop):
        first.next()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert np.array_equal(np.stack([second.next() for _ in range(6)]), drawn[stop:])


def test_sizes_come_as_often_as_they_are() -> None:
    groups = [np.arange(30), 100 + np.arange(10)]
    sampler = SizeSampler(groups, 5, 0)
    drawn = [sampler.next() for _ in range(80)]
    assert sum(int(batch[0] >= 100) for batch in drawn) == 20
    for start in range(0, 80, 8):  # an epoch of 40 pictures is 8 batches, 2 of them of the smaller group
        assert sum(int(batch[0] >= 100) for batch in drawn[start:start + 8]) == 2
    with pytest.raises(ValueError, match="saved over 40 training frames, but there are 41 now"):
        SizeSampler([np.arange(31), groups[1]], 5, 0).load_state_dict(sampler.state_dict())


# The layout and its pictures


def test_a_folder_a_camera_is_read(tmp_path: Path) -> None:
    source = open_source(write_cameras(tmp_path))
    assert [(frame.index, frame.time, frame.view) for frame in source.frames] == [
        (4 * number + time, time, name) for number, name in enumerate("abc") for time in range(4)]
    data = Dataset(source, Split(test_frames=1), progress=False)
    assert data.recording.cameras == ("a", "b", "c")
    np.testing.assert_array_equal(data.rgba(9), image(1 + 14))
    assert data.train_indices.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_frames_are_sorted_by_camera_whatever_their_order(tmp_path: Path) -> None:
    source = open_source(write_cameras(tmp_path))
    shuffled = type(source)(tuple(source.frames[i] for i in np.random.default_rng(0).permutation(12)), None, 350)
    data, again = Dataset(shuffled, progress=False), Dataset(source, progress=False)
    assert [frame.index for frame in data.frames] == list(range(12))
    order = [again.recording.cameras.index(name) for name in data.recording.cameras]
    for number, name in enumerate(data.recording.cameras):
        mine, theirs = data.recording.of_camera(number), again.recording.of_camera(order[number])
        assert [data.frames[i].view for i in mine] == [name] * 4
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(data.rgba(left), again.rgba(right))


@pytest.mark.parametrize("cache", ["ram", "stream"])
def test_pictures_of_several_sizes(tmp_path: Path, cache: str) -> None:
    data = Dataset(open_source(write_cameras(tmp_path, mixed=True)), Split(test_frames=0), cache=cache,  # type: ignore[arg-type]
                   progress=False)
    assert data.sizes == ((WIDTH, HEIGHT), OTHER)
    assert (data.width, data.height) == (WIDTH, HEIGHT)
    for index in range(12):
        number, time = divmod(index, 4)
        size = OTHER if number == 2 else (WIDTH, HEIGHT)
        assert data.size(index) == size
        np.testing.assert_array_equal(data.rgba(index), image(time + 7 * number, *size))
        assert (data.camera(index).width, data.camera(index).height) == size
    assert torch.equal(data.rgba_batch([9, 11]), torch.from_numpy(np.stack([image(15, *OTHER), image(17, *OTHER)])))
    assert [part.tolist() for part in data.by_size([11, 0, 8, 3])] == [[0, 3], [11, 8]]
    assert isinstance(training_sampler(data, 2, 0), SizeSampler)
    halved = Dataset(open_source(tmp_path), resolution=2, progress=False)
    assert halved.size(11) == (OTHER[0] // 2, OTHER[1] // 2)


def test_one_size_trains_in_one_order(tmp_path: Path) -> None:
    data = Dataset(open_source(write_cameras(tmp_path)), progress=False)
    sampler = training_sampler(data, 2, 5)
    assert isinstance(sampler, EpochSampler)
    assert np.array_equal(sampler.peek(20), EpochSampler(data.train_indices, 2, 5).peek(20))


def test_a_point_lies_where_a_fitted_picture_shows_it() -> None:
    """K of a fitted camera, and the picture that `letterbox` makes, agree; also by half a pixel of margin."""
    for size, window in (((20, 31), (33, 31)), ((24, 20), (48, 48))):
        K = np.array([[30, 0, 9], [0, 30, 14], [0, 0, 1]], np.float32)
        camera = Camera(np.eye(3, dtype=np.float32), np.array([0, 0, 1], np.float32), K, *size)
        rows, columns = np.mgrid[0:size[1], 0:size[0]] + 0.5
        blob = np.exp(-((columns - 9) ** 2 + (rows - 14) ** 2) / 8)
        picture = np.repeat(np.rint(255 * blob)[..., None], 3, axis=2).astype(np.uint8)
        boxed = letterbox(picture, window)[..., 0].astype(np.float64)
        assert boxed.shape == window[::-1]
        rows, columns = np.mgrid[0:window[1], 0:window[0]] + 0.5
        centroid = np.array([(columns * boxed).sum(), (rows * boxed).sum()]) / boxed.sum()
        # Rounding to 8 bits moves a centroid by hundredths of a pixel.
        np.testing.assert_allclose(centroid, camera.fitted(*window).K[:2, 2], atol=0.05)
    assert margins((10, 20), (40, 40)) == (10, 0, 2)


def test_a_clip_keeps_its_cameras(tmp_path: Path) -> None:
    data = Dataset(open_source(write_cameras(tmp_path / "data", mixed=True)), Split(test_frames=1), progress=False)
    codes = Codes(data.shape[0], data.expression, data.jaw, data.eyes, data.eyelids)
    clip = Clip(codes, data.R, data.t, data.K_in_window, data.width, data.height,
                torch.from_numpy(data.train_indices), torch.from_numpy(data.test_indices), "open", data.recording)
    save_clip(clip, tmp_path)
    again = load_clip(tmp_path)
    assert again.recording.cameras == ("a", "b", "c")
    assert np.array_equal(again.recording.time, data.recording.time)
    assert np.array_equal(again.recording.view, data.recording.view)
    one = again.of_camera(2)
    assert len(one) == 4
    assert not one.recording.several
    assert one.recording.cameras == ("c",)
    assert (one.train.tolist(), one.test.tolist()) == ([0, 1, 2], [3])
    assert torch.equal(one.R, data.R[8:])
    assert torch.equal(one.codes.expression, data.expression[8:])
    # The smaller pictures lie in the middle of the window.
    assert float(one.K[0, 0, 2]) == pytest.approx(WIDTH / 2)
    save_clip(one, tmp_path / "one")
    assert load_clip(tmp_path / "one").recorded is None


@pytest.mark.parametrize(("change", "message"), [
    ({"time": None}, "several cameras: wanted their names in the header, time and view"),
    ({"view": torch.full((12,), 3)}, "wanted moments 0, 1, ... without gaps and cameras 0 to 2, got others"),
    ({"time": torch.arange(12) * 2}, "wanted moments 0, 1, ... without gaps"),
    ({"time": torch.arange(11)}, "time: wanted 12 frames as R has, got 11"),
    ({"view": torch.zeros(12)}, "view: wanted torch.int64"),
])
def test_damaged_cameras_of_a_clip(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    test_a_clip_keeps_its_cameras(tmp_path)
    path = tmp_path / "clip.safetensors"
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: value for name, value in (tensors | change).items() if value is not None}
    save_file(tensors, path, header)
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


def test_malformed_folders_of_cameras(tmp_path: Path) -> None:
    (tmp_path / "cameras").mkdir()
    with pytest.raises(FileNotFoundError, match="cameras: empty; a folder for each camera is expected in it"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="cameras: no such folder"):
        open_source(write_folder(tmp_path / "plain"), "cameras")
    folder = write_cameras(tmp_path)
    other = record(2)
    other["flame"]["exp"] = other["flame"]["exp"] + 0.01
    write_record(folder / "cameras" / "b", 2, other)
    with pytest.raises(ValueError, match=r"b/checkpoint/00002\.frame: expression: the codes of camera a expected"):
        open_source(folder)
    write_record(folder / "cameras" / "b", 2, record(2))
    write_png(folder / "cameras" / "b" / "images" / "00003.png", image(3, 12, 10))
    with pytest.raises(ValueError, match=r"00003\.(png|frame)"):
        open_source(folder)


def test_two_pictures_of_one_moment_by_one_camera_are_refused(tmp_path: Path) -> None:
    source = open_source(write_cameras(tmp_path))
    with pytest.raises(ValueError, match="both are of moment 0 by camera 'a'"):
        Recording.of([*source.frames, source.frames[0].__class__(99, *(
            getattr(source.frames[0], name) for name in ("camera", "tracking", "image_path", "mask_path", "time",
                                                         "view")))])


def test_whole_photographs_of_several_cameras_are_refused(tmp_path: Path) -> None:
    source = open_source(write_cameras(tmp_path))
    whole = type(source)(source.frames, np.zeros((HEIGHT, WIDTH, 3), np.uint8), 350)
    with pytest.raises(ValueError, match="whole photographs over one background are read from one camera"):
        Dataset(whole, progress=False)


def test_the_flag_reaches_the_split(tmp_path: Path) -> None:
    data = DataSettings(write_cameras(tmp_path, ("a", "b", "c", "d")), test_frames=0, test_cameras=("c", "d"))
    assert open_dataset(data, open_data(data)).test_indices.tolist() == list(range(8, 16))
