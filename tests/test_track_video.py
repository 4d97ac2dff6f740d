"""Reading footage: times, turns, repeats, folders, and every file that is no usable video."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.track_videos import HEIGHT, WIDTH, moving_face, picture, write_audio, write_clip
from tracking import video_file
from tracking.footage import Dropped, FootageError, Listed, Picture, Span, without_repeats
from tracking.video import open_footage

LOSSY = 12  # levels: what x264 at this quality and the colour conversion change at most, on average far less


def read(path: Path, span: Span | Listed | None = None, fps: float | None = None) -> list[Picture]:
    return list(open_footage(path, fps).pictures(span or Span()))


def test_video_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = moving_face(12)
    pictures = read(write_clip(tmp_path / "a.mp4", written))
    assert [p.index for p in pictures] == list(range(12))
    assert [p.time for p in pictures] == pytest.approx([i / 25 for i in range(12)], abs=1e-3)
    for image, got in zip(written, pictures, strict=True):
        assert got.rgb.dtype == np.uint8 and got.alpha is None
        assert np.abs(image.astype(int) - got.rgb).mean() < LOSSY


def test_start_and_end_choose_seconds(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", moving_face(50))
    assert [p.index for p in read(clip, Span(start=0.4, end=0.8))] == list(range(10, 20))


def test_fps_thins_evenly(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", moving_face(50))
    kept = read(clip, Span(fps=10))
    # 25 a second thinned to 10: steps of 2 and 3 in turn, never drifting from the even clock by a whole picture.
    assert len(kept) == 20
    assert all(abs(p.time - k / 10) < 1 / 25 for k, p in enumerate(kept))
    assert len(read(clip, Span(fps=100))) == 50, "pictures are not invented"


def test_variable_frame_rate_keeps_true_times(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.54, 1.2, 1.24, 1.28, 1.32, 2.0]
    clip = write_clip(tmp_path / "a.mkv", moving_face(10), times=times)
    assert [p.time for p in read(clip)] == pytest.approx(times, abs=2e-3)
    # One a second: the first picture at or after every full second.
    assert [p.time for p in read(clip, Span(fps=1))] == pytest.approx([0, 1.2, 2.0], abs=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_metadata_turns_pictures_upright(tmp_path: Path, rotation: int) -> None:
    upright = [picture(((40, 30, 12),), seed=i) for i in range(4)]  # the face is in the upper left
    lying = [np.rot90(image, -rotation // 90) for image in upright]
    got = read(write_clip(tmp_path / "a.mp4", lying, rotation=rotation))
    assert got[0].rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(got[0].rgb.astype(int) - upright[0]).mean() < LOSSY


@pytest.mark.parametrize(("matrix", "shown"), [
    ((-1, 0, 0, 1), "GRWB"), ((1, 0, 0, -1), "BWRG"), ((0, 1, 1, 0), "RBGW"), ((0, -1, -1, 0), "WGBR"),
    ((0, 1, -1, 0), "BRWG"), ((-1, 0, 0, -1), "WBGR"),
])
def test_mirrored_display_matrix_is_obeyed(tmp_path: Path, matrix: tuple[int, ...], shown: str) -> None:
    colours = {"R": (220, 30, 30), "G": (30, 220, 30), "B": (30, 30, 220), "W": (220, 220, 220)}
    quarters = [np.full((HEIGHT // 2, WIDTH // 2, 3), colours[name], np.uint8) for name in "RGBW"]
    image = np.vstack([np.hstack(quarters[:2]), np.hstack(quarters[2:])])
    clip = write_clip(tmp_path / "a.mp4", [image] * 3)
    data = clip.read_bytes()
    at = data.index(b"tkhd") + 44  # the matrix in a track's header (ISO 14496-12, section 8.3)
    a, b, c, d = (int(65536 * value) for value in matrix)
    clip.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36:])
    got = read(clip)[0].rgb.astype(int)
    height, width = got.shape[:2]
    seen = [got[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    assert "".join(min(colours, key=lambda n: int(np.abs(value - colours[n]).sum())) for value in seen) == shown


@pytest.mark.parametrize(("codec", "pixels", "name"), [
    ("libvpx-vp9", "yuva420p", "a.webm"), ("libvpx", "yuva420p", "a.webm"), ("prores_ks", "yuva444p10le", "a.mov")])
def test_transparent_video_keeps_its_alpha(tmp_path: Path, codec: str, pixels: str, name: str) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[20:90, 30:100] = 255
    clip = write_clip(tmp_path / name, [np.dstack([image, alpha]) for image in moving_face(6)], codec=codec,
                      pixels=pixels)
    got = read(clip)
    assert [p.time for p in got] == pytest.approx([i / 25 for i in range(6)], abs=2e-3)
    for one in got:
        assert one.alpha is not None
        assert np.abs(one.alpha.astype(int) - alpha).mean() < 4


def test_alpha_that_cannot_be_decoded_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = np.full((HEIGHT, WIDTH), 128, np.uint8)
    clip = write_clip(tmp_path / "a.webm", [np.dstack([image, alpha]) for image in moving_face(3)],
                      codec="libvpx-vp9", pixels="yuva420p")
    monkeypatch.setattr(video_file, "ALPHA_DECODERS", {})
    footage = open_footage(clip)
    assert [p.alpha for p in footage.pictures(Span())] == [None] * 3
    assert any("alpha channel (vp9 in WebM) cannot be decoded here" in note for note in footage.notes)


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    got = read(write_clip(tmp_path / "a.mp4", moving_face(3), aspect=Fraction(3, 2)))
    assert got[0].rgb.shape == (HEIGHT, 240, 3)


def test_listed_pictures_are_read_again(tmp_path: Path) -> None:
    footage = open_footage(write_clip(tmp_path / "a.mp4", moving_face(20)))
    first = {p.index: p.rgb for p in footage.pictures(Span())}
    for again in footage.pictures(Listed(frozenset({3, 17}))):
        np.testing.assert_array_equal(again.rgb, first.pop(again.index))
    assert len(first) == 18


def test_repeated_pictures_are_left_out_with_a_reason() -> None:
    images = [picture(seed=0), picture(seed=0), picture(seed=1), picture(seed=2), picture(seed=2), picture(seed=2)]
    dropped: list[Dropped] = []
    kept = list(without_repeats((Picture(i, i / 25, image) for i, image in enumerate(images)), dropped))
    assert [p.index for p in kept] == [0, 2, 3]
    assert [(d.index, d.reason) for d in dropped] == [
        (1, "repeats picture 0"), (4, "repeats picture 3"), (5, "repeats picture 3")]


def test_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"shot{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    pictures = read(tmp_path, fps=50)
    assert [int(p.rgb[0, 0, 0]) for p in pictures] == [1, 2, 10]
    assert [p.time for p in pictures] == [0, 0.02, 0.04]


def test_folder_keeps_alpha(tmp_path: Path) -> None:
    rgba = np.dstack([picture(), np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))])
    cv2.imwrite(str(tmp_path / "0.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    got = read(tmp_path)[0]
    np.testing.assert_array_equal(got.rgb, rgba[..., :3])
    assert got.alpha is not None
    np.testing.assert_array_equal(got.alpha, rgba[..., 3])


def test_photo_orientation_is_obeyed_in_folders(tmp_path: Path) -> None:
    image = picture(((40, 30, 12),))
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    # An Exif block that says orientation 6: to be turned clockwise by a quarter.
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    block = b"Exif\x00\x00" + tiff
    data = encoded.tobytes()
    (tmp_path / "0.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:])
    got = read(tmp_path)[0].rgb
    assert np.abs(got.astype(int) - np.rot90(image, -1)).mean() < LOSSY


def test_folder_keeps_alpha_of_16_bits(tmp_path: Path) -> None:
    rgba = np.dstack([picture(), np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))])
    cv2.imwrite(str(tmp_path / "0.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257)
    got = read(tmp_path)[0]
    np.testing.assert_array_equal(got.rgb, rgba[..., :3])
    np.testing.assert_array_equal(got.alpha, rgba[..., 3])


def test_folder_of_float_pictures_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.tif"), np.zeros((8, 8, 3), np.float32))
    with pytest.raises(FootageError, match=r"0\.tif: 8 or 16 bits per channel expected, got float32"):
        read(tmp_path)


def test_animated_webp_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x12\0\0\0" + bytes(12))
    with pytest.raises(FootageError, match=r"a\.webp: an animated WebP.* convert it to a video"):
        open_footage(path)


def test_cut_short_file_gives_what_decodes_and_says_so(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for i in range(75)]
    whole = write_clip(tmp_path / "a.mp4", pictures, options={"movflags": "+faststart"})
    part = tmp_path / "part.mp4"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    footage = open_footage(part)
    got = list(footage.pictures(Span()))
    assert 20 < len(got) < 45
    assert any("part.mp4 is cut short: it says that it lasts 3.0 s" in note for note in footage.notes)
    complete = open_footage(whole)
    assert len(list(complete.pictures(Span()))) == 75 and complete.notes == []


def test_unknown_codec_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", moving_face(3))
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(FootageError, match=r"a\.mp4: the installed FFmpeg knows no decoder of its pictures"):
        open_footage(clip)


def test_names_inside_a_video_may_be_no_text(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", moving_face(3))
    clip.write_bytes(clip.read_bytes().replace(b"VideoHandler", b"\xdd\xffdeoHandler"))
    assert len(read(clip)) == 3


def test_file_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", moving_face(30))  # the index of such a file is at its end
    part = tmp_path / "part.mp4"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(FootageError, match=r"part\.mp4: neither video nor image .* damaged, cut short"):
        open_footage(part)


def test_file_whose_pictures_are_destroyed_is_refused(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", moving_face(30), options={"movflags": "+faststart"})
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    whole.write_bytes(bytes(data))
    with pytest.raises(FootageError, match=r"a\.mp4: not one picture could be decoded"):
        read(whole)


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_audio_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootageError, match=rf"{name}: an audio file .* a video of the face is expected"):
        open_footage(write_audio(tmp_path / name))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo_without_suffix"])
def test_photo_is_refused(tmp_path: Path, name: str) -> None:
    _, data = cv2.imencode(Path(name).suffix or ".jpg", picture())
    (tmp_path / name).write_bytes(data.tobytes())
    with pytest.raises(FootageError, match=rf"{name}: a photo; an avatar is learnt from a video"):
        open_footage(tmp_path / name)


def test_other_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.mp4: no such file or folder"):
        open_footage(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(FootageError, match=r"text\.mp4: neither video nor image"):
        open_footage(tmp_path / "text.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FootageError, match="empty: a folder of images is expected .* got 0 other files"):
        open_footage(tmp_path / "empty")


def test_bad_image_in_a_folder_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(FootageError, match=r"1\.png: 8 x 8 pixels expected as the images before it, got 9 x 8"):
        read(tmp_path)
    (tmp_path / "1.png").write_bytes(b"nothing")
    with pytest.raises(FootageError, match=r"1\.png: not a readable image"):
        read(tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"start": -1.0}, r"--start: .* got -1"), ({"start": 3.0, "end": 2.0}, r"--end: seconds after --start \(3.0\)"),
    ({"fps": 0.0}, r"--fps: a positive number"),
])
def test_span_that_makes_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Span(**options)
