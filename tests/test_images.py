"""Strict reading, atomic writing and alpha-true resizing of images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.images import (
    encode_image,
    exif_orientation,
    read_image,
    read_mask,
    read_png_header,
    read_rgb,
    read_rgba,
    resize_area,
    resize_rgba,
    write_image,
)


def random_image(channels: int, height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_chunk_that_says_to_be_longer_than_the_file(tmp_path: Path) -> None:
    """OpenCV takes memory for a chunk by its stated length, here 1.8 GB, before it reads."""
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    data = bytearray((tmp_path / "a.png").read_bytes())
    place = data.index(b"IDAT")
    data[place - 4:place] = b"null"
    (tmp_path / "long.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"long\.png: damaged PNG: a chunk says to be longer than the file"):
        read_rgb(tmp_path / "long.png")


def test_round_trips(tmp_path: Path) -> None:
    rgba, rgb, grey = random_image(4), random_image(3), random_image(1)[..., 0]
    for name, pixels in (("a", rgba), ("b", rgb), ("c", grey)):
        write_image(tmp_path / f"{name}.png", pixels)
    np.testing.assert_array_equal(read_rgba(tmp_path / "a.png"), rgba)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgba[..., :3])
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), rgb)
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), rgb[..., 0])
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png"), np.repeat(grey[..., None], 3, axis=2))
    header = read_png_header(tmp_path / "a.png")
    assert (header.width, header.height, header.bits, header.channels) == (16, 12, 8, 4)


def test_jpeg_quality_counts(tmp_path: Path) -> None:
    pixels = random_image(3, 64, 64)
    assert len(encode_image(pixels, ".jpg", 40)) < len(encode_image(pixels, ".jpg", 95))


@pytest.mark.parametrize("cut", [1, 12, 40, 300])
def test_cut_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.png"
    data = encode_image(random_image(4), ".png")
    path.write_bytes(data[:len(data) - cut])
    with pytest.raises(ValueError, match=r"cut\.png: truncated PNG"):
        read_rgba(path)


def test_damaged_and_unsuitable_files(tmp_path: Path) -> None:
    damaged = bytearray(encode_image(random_image(4), ".png"))
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.png").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.png: not a readable image, or damaged"):
        read_rgba(tmp_path / "damaged.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jpg: not a readable image"):
        read_rgb(tmp_path / "empty.jpg")
    write_image(tmp_path / "rgb.png", random_image(3))
    with pytest.raises(ValueError, match=r"rgb\.png: an image with an alpha channel.*uint8 \[12, 16, 3\]"):
        read_rgba(tmp_path / "rgb.png")
    cv2.imwrite(str(tmp_path / "float.tif"), random_image(3).astype(np.float32) / 255)
    for read in (read_rgb, read_rgba, read_mask, read_image):
        message = r"float\.tif: (8 or 16 bits per channel expected, got float32|an image with an alpha)"
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_alpha(tmp_path: Path, suffix: str) -> None:
    rgba, path = random_image(4), tmp_path / f"deep{suffix}"
    deep = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257
    deep[::2] -= np.minimum(deep[::2], 100)  # less than half a step of 8 bits
    cv2.imwrite(str(path), deep)
    np.testing.assert_array_equal(read_rgba(path), rgba)
    np.testing.assert_array_equal(read_image(path).alpha, rgba[..., 3])


def png(kind: int, pixels: np.ndarray, chunks: dict[bytes, bytes] | None = None) -> bytes:
    """An 8-bit PNG of a colour type that OpenCV does not write: pixels [H,W,C], chunks before them."""
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = b"".join(chunk(name, content) for name, content in (chunks or {}).items())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_with_alpha_and_palettes_keep_their_alpha(tmp_path: Path) -> None:
    pixels = random_image(2)
    (tmp_path / "grey.png").write_bytes(png(4, pixels))
    colours = random_image(3, 1, 4)[0]
    index = random_image(1) % 4
    palette = {b"PLTE": colours.tobytes(), b"tRNS": bytes([0, 255, 128, 7])}
    (tmp_path / "palette.png").write_bytes(png(3, index, palette))
    (tmp_path / "opaque.png").write_bytes(png(3, index, {b"PLTE": colours.tobytes()}))
    np.testing.assert_array_equal(read_rgba(tmp_path / "grey.png"), pixels[..., [0, 0, 0, 1]])
    found = read_rgba(tmp_path / "palette.png")
    np.testing.assert_array_equal(found[..., :3], colours[index[..., 0]])
    np.testing.assert_array_equal(found[..., 3], np.array([0, 255, 128, 7])[index[..., 0]])
    alphas = {name: read_png_header(tmp_path / f"{name}.png").has_alpha for name in ("grey", "palette", "opaque")}
    assert alphas == {"grey": True, "palette": True, "opaque": False}
    assert read_image(tmp_path / "opaque.png").alpha is None


def exif(orientation: int, order: str) -> bytes:
    """An EXIF block with the orientation as its second entry."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(order + "HHIHHHHIHH", 0x0100, 3, 1, 9, 0, 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_noted_is_obeyed(tmp_path: Path, orientation: int) -> None:
    """With alpha as without: OpenCV, which turns colour only, is the judge."""
    rgba, path = random_image(4), tmp_path / "turned.png"
    path.write_bytes(png(6, rgba, {b"eXIf": exif(orientation, "<>"[orientation % 2])}))
    upright = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))[..., ::-1]
    found, header = read_rgba(path), read_png_header(path)
    np.testing.assert_array_equal(found[..., :3], upright)
    assert (header.height, header.width) == upright.shape[:2]
    path.write_bytes(png(6, rgba[..., [3, 3, 3, 3]], {b"eXIf": exif(orientation, "<")}))
    np.testing.assert_array_equal(read_image(path).alpha, read_image(path).rgb[..., 0])


@pytest.mark.parametrize("damaged", [b"", b"II*\0", exif(6, "<")[:20], exif(99, "<"), b"II*\0\xff\xff\xff\xff"])
def test_damaged_exif_counts_as_none(damaged: bytes) -> None:
    assert exif_orientation(damaged) == 1


def test_enormous_pictures_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    png = bytearray(encode_image(random_image(4), ".png"))
    png[16:24] = struct.pack(">II", 30_000, 30_000)
    jpeg = bytearray(encode_image(random_image(3), ".jpg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5:frame + 9] = struct.pack(">HH", 40_000, 50_000)
    for name, data, size in (("a.png", png, "30000 x 30000"), ("a.jpg", jpeg, "50000 x 40000")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: {size} pixels; pictures of up to 64 million"):
            read_rgb(tmp_path / name)


def test_headers_of_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"x\.png: not a PNG file \(a GIF\)"):
        read_png_header(path)
    path.write_bytes(encode_image(random_image(3), ".jpg"))
    with pytest.raises(ValueError, match=r"x\.png: not a PNG file \(a JPEG under another name; JPEG has no alpha"):
        read_png_header(path)
    header = bytearray(encode_image(random_image(3), ".png")[:33])
    path.write_bytes(header[:20])
    with pytest.raises(ValueError, match=r"x\.png: truncated PNG \(20 bytes\)"):
        read_png_header(path)
    header[25] = 5
    path.write_bytes(header)
    with pytest.raises(ValueError, match="colour type 5 is not in the PNG specification"):
        read_png_header(path)


def test_writing_refuses_nonsense(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H,W\].*got float64 \[2, 2\]"):
        write_image(tmp_path / "x.png", np.zeros((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'\.nope': no image format"):
        write_image(tmp_path / "x.nope", random_image(3))
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), width=st.integers(1, 16), height=st.integers(1, 12))
def test_resized_composite_is_the_composite_resized(seed: int, width: int, height: int) -> None:
    rgba = random_image(4, seed=seed)
    alpha = rgba[..., 3:] / 255.0
    black = resize_area(np.rint(rgba[..., :3] * alpha).astype(np.uint8), width, height)
    small = resize_rgba(rgba, width, height)
    # Each of the two paths rounds twice to 8 bits, colour by half a step times alpha.
    assert np.abs(small[..., :3] * (small[..., 3:] / 255.0) - black).max() <= 2.0


def test_hidden_colour_does_not_bleed() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :3] = (10, 200, 30, 255)
    rgba[:, 3:, :3] = 255  # white under alpha 0
    small = resize_rgba(rgba, 4, 4)
    assert (small[:, :2, :3] == (10, 200, 30)).all()
    assert small[0, :, 3].tolist() == [255, 128, 0, 0]
    assert (small[:, 2:] == 0).all()
