"""Videos: readable back with the right colours, sizes and length; nothing left behind when it fails."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from utils import video

COLORS = np.array([[230, 30, 40], [30, 200, 60], [40, 60, 220], [128, 128, 128], [250, 240, 20], [0, 0, 0]], np.uint8)


def decode(path: Path) -> tuple[av.video.stream.VideoStream, list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return container.streams.video[0], frames


@pytest.mark.parametrize("fps", [25.0, 29.97, 12.5])
def test_frames_come_back_in_order_with_their_colours(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "v.mp4"
    with video.write_video(path, fps) as add:
        for color in COLORS:
            add(np.broadcast_to(color, (48, 64, 3)).copy())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(fps, abs=1e-3)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1 and stream.codec_context.color_range == 1
        planes = [f.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for f in container.decode(video=0)]
    assert len(planes) == len(COLORS)
    for color, plane in zip(COLORS, planes, strict=True):
        # 8-bit limited-range chroma and x264 at crf 18 on flat colour; worst seen 3
        assert np.abs(plane.astype(int) - color).max() <= 6


def test_odd_sizes_are_padded_by_repetition(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with video.write_video(path, 25) as add:
        add(np.full((33, 47, 3), 200, np.uint8))
    _, frames = decode(path)
    assert frames[0].shape == (34, 48, 3)
    assert frames[0][-1, -1].min() > 150  # padded with the picture's edge, not with black


def test_the_index_precedes_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with video.write_video(path) as add:
        add(np.zeros((16, 16, 3), np.uint8))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_failing_block_leaves_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), video.write_video(path) as add:
        add(np.zeros((16, 16, 3), np.uint8))
        raise KeyError("render failed")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.mp4"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(ValueError, match="fps: expected a positive number, got 0"), video.write_video(path, 0):
        pass
    with pytest.raises(ValueError, match=r"v\.mp4: a video needs at least one frame"), video.write_video(path):
        pass
    with pytest.raises(ValueError, match=r"expected uint8 \[H,W,3\], got float64"), video.write_video(path) as add:
        add(np.zeros((16, 16, 3)))  # type: ignore[arg-type]
    with (
        pytest.raises(ValueError, match=r"expected \[16, 16, 3\] like the first, got \[16, 18, 3\]"),
        video.write_video(path) as add,
    ):
        add(np.zeros((16, 16, 3), np.uint8))
        add(np.zeros((16, 18, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_h264_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video.av, "codecs_available", set())
    with pytest.raises(video.VideoUnavailable, match="has no libx264"), video.write_video(tmp_path / "v.mp4"):
        pass
