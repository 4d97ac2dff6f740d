"""Splits, the order of training frames, decoding, and working at another resolution."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.dataset import Dataset, working_size
from scene.readers import open_source
from scene.split import EpochSampler, Split, describe_split
from tests.tracker_folder import HEIGHT, WIDTH, image, record, write_folder, write_png, write_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", frames=6)


def make(folder: Path, mode: str = "insta", **options: object) -> Dataset:
    return Dataset(open_source(folder, mode), Split(test_frames=2), progress=False, **options)  # type: ignore[arg-type]


# Splits


def test_tail_holds_out_the_last_frames() -> None:
    train, test = Split(test_frames=350).indices(400, default_test_frames=350)
    assert train.tolist() == list(range(50))
    assert test.tolist() == list(range(50, 400))
    assert len(Split(test_frames=0).indices(10, 350)[1]) == 0


@pytest.mark.parametrize("kind", ["tail", "blocks"])
@pytest.mark.parametrize("frames, convention, held_out", [
    (4000, 350, 350), (1750, 350, 350), (1749, 350, 349), (354, 350, 70), (120, 350, 24), (10, 350, 2),
    (2500, 500, 500), (2499, 500, 350), (400, 500, 80),
])
def test_published_clips_keep_their_convention_and_others_hold_out_a_fifth(
    kind: Literal["tail", "blocks"], frames: int, convention: int, held_out: int,
) -> None:
    train, test = Split(kind, blocks=1).indices(frames, convention)
    assert len(test) == held_out
    assert len(train) >= 0.8 * frames


def test_the_split_is_described() -> None:
    assert describe_split(*Split().indices(120, 350)) == "96 frames train, 24 held out (96 to 119 of 0 to 119)"
    assert "8 held out (2 to 5, 8 to 11 of 0 to 13)" in describe_split(*Split("blocks", 8, 2).indices(14, 350))
    assert describe_split(*Split(test_frames=0).indices(3, 350)) == "3 frames train, none held out"


def test_no_training_frames_left(folder: Path) -> None:
    with pytest.raises(ValueError, match="has 6 frames and 6 of them are held out.*--test_frames 1"):
        Dataset(open_source(folder), Split(test_frames=6), progress=False)


@given(frames=st.integers(2, 400), test=st.integers(1, 399), blocks=st.integers(1, 40))
def test_blocks_lie_between_training_frames(frames: int, test: int, blocks: int) -> None:
    split = Split("blocks", test_frames=test, blocks=blocks)
    if test >= frames or blocks > min(test, frames - test - 1):
        with pytest.raises(ValueError, match="no training frames left|do not fit"):
            split.indices(frames, 350)
        return
    train, held_out = split.indices(frames, 350)
    assert sorted([*train, *held_out]) == list(range(frames))
    assert len(held_out) == test
    assert train[0] == 0
    assert train[-1] == frames - 1
    starts = np.flatnonzero(np.diff(held_out, prepend=-2) > 1)
    lengths = np.diff([*starts, test])
    assert len(lengths) == blocks
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("split, message", [
    (Split("random"), "split kind 'random' is unknown"),  # type: ignore[arg-type]
    (Split(test_frames=-1), "test frames: 0 or more expected, got -1"),
])
def test_senseless_splits(split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split.indices(10, 350)


# The order of training


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20), batch=st.integers(1, 7), seed=st.integers(0, 5), stop=st.integers(0, 20))
def test_sampler_goes_on_as_if_never_stopped(count: int, batch: int, seed: int, stop: int) -> None:
    indices = np.arange(count) * 3
    whole = EpochSampler(indices, batch, seed)
    drawn = [whole.next().tolist() for _ in range(stop + 10)]
    first = EpochSampler(indices, batch, seed)
    for _ in range(stop):
        first.next()
    state = json.loads(json.dumps(first.state_dict()))
    second = EpochSampler(indices, batch, seed + 1)
    second.load_state_dict(state)
    assert [second.next().tolist() for _ in range(10)] == drawn[stop:]


@given(count=st.integers(1, 30), batch=st.integers(1, 9))
def test_every_epoch_holds_every_frame_once(count: int, batch: int) -> None:
    sampler = EpochSampler(np.arange(count), batch, seed=0)
    stream = np.concatenate([sampler.next() for _ in range(3 * count)])
    for epoch in range(3):
        assert sorted(stream[epoch * count:(epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(EpochSampler(np.arange(50), 50, seed).peek(100)[start:start + 50])
              for seed in (0, 1) for start in (0, 50)}
    assert len(orders) == 4


def test_peek_draws_nothing() -> None:
    sampler = EpochSampler(np.arange(7), 3, 0)
    ahead = sampler.peek(9).tolist()
    assert [i for _ in range(3) for i in sampler.next()] == ahead
    assert sampler.drawn == 9


def test_sampler_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="cannot sample from 0 frames"):
        EpochSampler(np.arange(0), 1, 0)
    with pytest.raises(ValueError, match="batch size: 1 or more expected, got 0"):
        EpochSampler(np.arange(3), 0, 0)
    with pytest.raises(ValueError, match="saved over 3 training frames, but there are 4 now"):
        EpochSampler(np.arange(4), 1, 0).load_state_dict(EpochSampler(np.arange(3), 1, 0).state_dict())


# Images


def test_images_and_tensors(folder: Path) -> None:
    data = make(folder)
    assert (data.frame_count, data.width, data.height) == (6, WIDTH, HEIGHT)
    assert data.train_indices.tolist() == [0, 1, 2, 3]
    assert data.test_indices.tolist() == [4, 5]
    np.testing.assert_array_equal(data.rgba(3), image(3))
    batch = data.rgba_batch([5, 1, 5])
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), np.stack([image(5), image(1), image(5)]))
    shapes = {"R": (6, 3, 3), "t": (6, 3), "K": (6, 3, 3), "shape": (6, 300), "expression": (6, 100), "jaw": (6, 6),
              "eyes": (6, 12), "eyelids": (6, 2)}
    for name, shape in shapes.items():
        tensor = getattr(data, name)
        assert tensor.shape == shape
        assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(data.R[4].numpy(), data.camera(4).R)
    assert data.expression[5, 0] == np.float32(0.05)


def test_streaming_gives_the_same_images(folder: Path) -> None:
    kept, streamed = make(folder, cache="ram"), make(folder, cache="stream", resolution=2)
    halved = make(folder, cache="ram", resolution=2)
    assert streamed.images is None
    assert kept.images is not None
    streamed.prefetch([4, 2])
    for indices in ([2, 4], [0], [1, 1]):
        assert torch.equal(streamed.rgba_batch(indices), halved.rgba_batch(indices))


def test_images_that_would_fill_the_memory_are_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 6 * HEIGHT * WIDTH * 4
    for memory, kept in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr("scene.dataset._physical_memory", lambda memory=memory: float(memory))
        assert (make(folder).images is not None) == kept


def test_whole_photograph_mode_takes_alpha_from_the_mask(tmp_path: Path) -> None:
    data = make(write_folder(tmp_path / "data", mode="nerfbs"), "nerfbs")
    np.testing.assert_array_equal(data.rgba(1), image(1))
    assert data.background is not None
    assert data.background.shape == (HEIGHT, WIDTH, 3)


def test_a_mask_that_changed_its_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene.dataset._physical_memory", lambda: 0.0)  # images are read when they are needed
    data = make(write_folder(tmp_path / "data", mode="nerfbs"), "nerfbs")
    mask = data.frames[1].mask_path
    assert mask is not None
    write_png(mask, np.zeros((HEIGHT // 2, WIDTH, 3), np.uint8))
    said = rf"{re.escape(str(mask))}: {WIDTH} x {HEIGHT} pixels expected, got {WIDTH} x {HEIGHT // 2}"
    with pytest.raises(ValueError, match=said):
        data.rgba(1)


def test_whole_photograph_mode_keeps_colour_outside_the_mask_when_resized(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", mode="nerfbs")
    write_png(folder / "image_mask" / "mask_00000.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    data = make(folder, "nerfbs", resolution=2)
    assert data.background is not None
    assert data.background.shape == (HEIGHT // 2, WIDTH // 2, 3)
    np.testing.assert_array_equal(data.rgba(0)[..., :3], np.broadcast_to(image(0)[0, 0, :3], (10, 12, 3)))
    assert (data.rgba(0)[..., 3] == 0).all()


def test_a_truncated_image_is_named_while_decoding(folder: Path) -> None:
    path = folder / "images" / "00004.png"
    path.write_bytes(path.read_bytes()[:-20])
    source = open_source(folder)  # the header is intact
    with pytest.raises(ValueError, match=r"00004\.png: truncated PNG"):
        Dataset(source, Split(test_frames=1), progress=False, cache="ram")
    streamed = Dataset(source, Split(test_frames=1), progress=False, cache="stream")
    with pytest.raises(ValueError, match=r"00004\.png: truncated PNG"):
        streamed.rgba_batch([4])


def test_an_image_that_changed_its_size(folder: Path) -> None:
    source = open_source(folder)
    write_png(folder / "images" / "00002.png", image(2, 12, 10))
    with pytest.raises(ValueError, match=r"00002\.png: 24 x 20 pixels expected, got 12 x 10"):
        Dataset(source, Split(test_frames=1), progress=False)


# Resolution


@pytest.mark.parametrize("resolution, size", [
    (-1, (512, 384)), (1, (512, 384)), (2, (256, 192)), (4, (128, 96)), (8, (64, 48)), (200, (200, 150)),
    (16, (16, 12)),
])
def test_resolution_flag(resolution: int, size: tuple[int, int]) -> None:
    assert working_size(512, 384, resolution) == size


@pytest.mark.parametrize("resolution", [0, -2, 3, 15, 513])
def test_impossible_resolutions(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"up to the images' 512 pixels expected, got {resolution}"):
        working_size(512, 384, resolution)


def test_a_marked_point_stays_under_its_projection(tmp_path: Path) -> None:
    """Paint a dot where a known 3D point projects; at every resolution the dot's centroid is where K puts the point."""
    width, height = 96, 80
    folder = write_folder(tmp_path / "data", frames=1)
    content = record(0, width, height)
    write_record(folder, 0, content)
    R, t, K = (content["opencv"][key][0].astype(np.float64) for key in ("R", "t", "K"))
    point = np.array([0.031, 0.042, 0.05])
    u, v, w = K @ (R @ point + t)
    rows, columns = np.mgrid[0:height, 0:width] + 0.5  # pixel centres in the coordinates of K
    blob = np.exp(-((columns - u / w) ** 2 + (rows - v / w) ** 2) / (2 * 5.0**2))
    picture = np.dstack([np.rint(255 * blob)] * 3 + [np.full((height, width), 255)]).astype(np.uint8)
    write_png(folder / "images" / "00000.png", picture)
    for resolution in (1, 2, 4, 37):
        data = Dataset(open_source(folder), Split(test_frames=0), resolution=resolution, progress=False)
        small = data.rgba(0)[..., 0].astype(np.float64)
        rows, columns = np.mgrid[0:data.height, 0:data.width] + 0.5
        centroid = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
        camera = data.camera(0)
        x, y, z = camera.K @ (camera.R @ point + camera.t)
        # Rounding to 8 bits moves the centroid by up to some hundredths of a pixel; a half-pixel slip would show.
        np.testing.assert_allclose(centroid, [x / z, y / z], atol=0.05)


def test_all_pictures_in_one_tensor(folder: Path) -> None:
    data = make(folder, cache="ram")
    assert data.images is not None and data.images.shape == (6, HEIGHT, WIDTH, 4)
    for index in range(6):
        np.testing.assert_array_equal(data.images[index].numpy(), data.rgba(index))
    assert make(folder, cache="stream").images is None
