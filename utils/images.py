"""Images on disk and in memory: reading to 8 bits with alpha kept, atomic writing, resizing that respects alpha.

Arrays are uint8, RGB(A) channel order, [H,W,C]; colour is never premultiplied by alpha unless a name says so. Files of
16 bits a channel are rounded to 8, grey and palettes become colour, and an orientation noted by a camera is obeyed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_PIXELS = 1 << 26
"""Pixels of the largest picture that is decoded (8192 x 8192); more is a mistake, or made to fill the memory."""

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it once, while it is imported

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from utils.atomic import write_bytes  # noqa: E402

Size = tuple[int, int]  # width, height in pixels
ByteImage = NDArray[np.uint8]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}  # of what a folder of footage holds
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # colour type -> channels (PNG specification, section 11.2.2)
PNG_ALPHA = (2, 4)  # channels of which the last is alpha
PNG_TRAILER = b"IEND\xaeB`\x82"  # the last chunk's type and checksum


ORIENTATION_TAG = 0x0112  # of TIFF and EXIF
TURNS = {  # orientation -> what makes a stored picture upright
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


@dataclass(frozen=True)
class PngHeader:
    """What a PNG says before its pixels: upright size, bits per channel, channels as they decode.

    channels: 1 grey, 2 grey + alpha, 3 colour, 4 colour + alpha. A palette counts as colour, and a transparent colour
    of a palette or of colour as alpha.
    """

    width: int
    height: int
    bits: int
    channels: int

    @property
    def has_alpha(self) -> bool:
        """Whether transparency is stored."""
        return self.channels in PNG_ALPHA


def read_png_header(path: Path) -> PngHeader:
    """Size and kind of a PNG without decoding it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a PNG, or shorter than its header.
    """
    with open(path, "rb") as file:
        head = file.read(33)
        if head[:8] != PNG_SIGNATURE:
            raise ValueError(f"{path}: not a PNG file{_other_kind(head)}")
        if len(head) < 33:
            raise ValueError(f"{path}: truncated PNG ({len(head)} bytes)")
        width, height, bits, kind = struct.unpack(">IIBB", head[16:26])
        if kind not in PNG_CHANNELS:
            raise ValueError(f"{path}: colour type {kind} is not in the PNG specification")
        chunks = _chunks_before_pixels(file)
    channels = PNG_CHANNELS[kind]
    if channels == 3 and b"tRNS" in chunks:
        channels = 4
    if exif_orientation(chunks.get(b"eXIf", b"")) >= 5:
        width, height = height, width
    return PngHeader(width, height, bits, channels)


@dataclass(frozen=True)
class PictureHeader:
    """Upright size of an image file, and whether it stores transparency."""

    width: int
    height: int
    has_alpha: bool


def read_picture_header(path: Path) -> PictureHeader:
    """Size and kind of a PNG or JPEG without decoding its pixels. Raises FileNotFoundError, ValueError naming it."""
    data = path.read_bytes() if path.suffix.lower() in (".jpg", ".jpeg") else b""
    if not data.startswith(b"\xff\xd8"):
        png = read_png_header(path)
        return PictureHeader(png.width, png.height, png.has_alpha)
    size = _size_of(data)
    if size is None:
        raise ValueError(f"{path}: not a readable JPEG, or damaged ({len(data)} bytes)")
    return PictureHeader(*size, has_alpha=False)


def _chunks_before_pixels(file: BinaryIO) -> dict[bytes, bytes]:
    """Of a PNG read up to the end of IHDR: transparency (without content) and EXIF, where they precede the pixels."""
    found: dict[bytes, bytes] = {}
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind in (b"IDAT", b"IEND"):
            break
        content = file.read(min(length, 1 << 16)) if kind == b"eXIf" else b""
        if kind in (b"eXIf", b"tRNS"):
            found[kind] = content
        file.seek(length - len(content) + 4, 1)
    return found


def _other_kind(head: bytes) -> str:
    """What a file that is no PNG is instead, for a message."""
    kinds = {b"\xff\xd8\xff": "a JPEG under another name; JPEG has no alpha",
             b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
             b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"GIF8": "a GIF", b"BM": "a BMP", b"<": "a web page or XML"}
    return next((f" ({what})" for start, what in kinds.items() if head.startswith(start)), "")


def exif_orientation(exif: bytes) -> int:
    """Orientation, 1 to 8, in the TIFF structure of EXIF data; 1 (upright) where there is none or it is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    first = struct.unpack(order + "I", exif[4:8])[0]
    count = struct.unpack(order + "H", exif[first:first + 2])[0] if first + 2 <= len(exif) else 0
    for place in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack(order + "HHIH", exif[place:place + 10])
        if tag == ORIENTATION_TAG:
            return int(value) if 1 <= value <= 8 else 1
    return 1


@dataclass(frozen=True, eq=False)
class StoredImage:
    """The pixels of an image file, upright. rgb: uint8 [H,W,3]. alpha: uint8 [H,W], or None where there is none."""

    rgb: ByteImage
    alpha: ByteImage | None


def read_image(path: Path) -> StoredImage:
    """Any image that OpenCV reads (PNG, JPEG, TIFF, WebP, AVIF), 8 or 16 bits a channel, with its alpha if it has any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, cut short, no image, or floating-point numbers; the message names the file.
    """
    image = _decode(path)
    if image.ndim == 2:
        return StoredImage(np.repeat(image[:, :, None], 3, axis=2), None)
    code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    rgb = np.asarray(cv2.cvtColor(image, code), np.uint8)
    return StoredImage(rgb, np.ascontiguousarray(image[:, :, 3]) if image.shape[2] == 4 else None)


def read_rgba(path: Path) -> ByteImage:
    """An image with alpha as [H,W,4]. Raises ValueError naming the file (see `read_image`), or when it has no alpha."""
    image = _decode(path)
    if image.ndim != 3 or image.shape[2] != 4:
        raise ValueError(f"{path}: an image with an alpha channel (RGBA) is expected, got {_describe(image)}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), np.uint8)


def read_rgb(path: Path) -> ByteImage:
    """An image as [H,W,3]; an alpha channel is dropped, grey is repeated. Raises ValueError (see `read_image`)."""
    return read_image(path).rgb


def read_mask(path: Path) -> ByteImage:
    """A mask as [H,W]; of a colour image its first (red) channel. Raises ValueError (see `read_image`)."""
    return np.ascontiguousarray(read_rgb(path)[:, :, 0])


def write_image(path: Path, image: ByteImage, quality: int = 95) -> None:
    """Write [H,W], [H,W,3] or [H,W,4] uint8, atomically; the suffix chooses the format (`quality`: JPEG only).

    Raises:
        ValueError: wrong dtype or shape, or a suffix that no encoder knows.
        utils.atomic.WriteError: the disk refused.
    """
    write_bytes(path, encode_image(image, path.suffix, quality))


def encode_image(image: ByteImage, suffix: str, quality: int = 95) -> bytes:
    """The bytes of an image file; see `write_image`."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise ValueError(f"uint8 [H,W], [H,W,3] or [H,W,4] expected, got {_describe(image)}")
    codes = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    code = codes[2 if image.ndim == 2 else image.shape[2]]
    ordered = image if code is None else cv2.cvtColor(image, code)
    if not cv2.haveImageWriter("image" + suffix):
        raise ValueError(f"{suffix!r}: no image format with this suffix")
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        # an eighth of the default's time for some 5 % more bytes: filters are not tried out row by row
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP],
    }.get(suffix.lower(), [])
    _, data = cv2.imencode(suffix, ordered, options)
    return data.tobytes()


def margins(picture: Size, window: Size) -> tuple[float, float, float]:
    """Where a whole picture lies in the middle of a window: left and top margin in pixels, and its magnification."""
    scale = min(window[0] / picture[0], window[1] / picture[1])
    return 0.5 * (window[0] - scale * picture[0]), 0.5 * (window[1] - scale * picture[1]), scale


def letterbox(image: ByteImage, size: Size) -> ByteImage:
    """A whole image [H,W,C] in the middle of a black one of `size`, where `margins` says to a fraction of a pixel."""
    if image.shape[1::-1] == size:
        return image
    left, top, scale = margins((image.shape[1], image.shape[0]), size)
    if scale < 1:
        image = resize_area(image, *(max(1, round(scale * side)) for side in image.shape[1::-1]))
        left, top, scale = margins((image.shape[1], image.shape[0]), size)
    shift = 0.5 * (scale - 1)  # OpenCV counts from the middle of the first pixel
    place = np.array([[scale, 0, left + shift], [0, scale, top + shift]])
    return cv2.warpAffine(image, place, size, flags=cv2.INTER_LINEAR).astype(np.uint8)


def with_alpha(rgb: ByteImage, alpha: ByteImage) -> ByteImage:
    """uint8 RGBA [H,W,4] of colours [H,W,3] and one channel [H,W]. ValueError where they differ in size."""
    if alpha.shape != rgb.shape[:2]:
        raise ValueError(f"alpha of {list(rgb.shape[:2])} like the colours expected, got {list(alpha.shape)}")
    # NumPy's `dstack` takes several times as long.
    return np.asarray(cv2.merge((*cv2.split(rgb), alpha)), np.uint8)


def resize_area(image: ByteImage, width: int, height: int) -> ByteImage:
    """Mean over each target pixel's area: [h,w] or [h,w,C] -> [height,width(,C)]. Channels are independent."""
    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(resized, 0, 255)).astype(np.uint8)


def resize_rgba(image: ByteImage, width: int, height: int) -> ByteImage:
    """Area resampling of RGBA with colour weighted by alpha: [h,w,4] -> [height,width,4].

    The mean of premultiplied colour divided by the mean alpha, so that what lies under transparent pixels never
    bleeds in and composites of the result equal the resampled composite. Colour is 0 where alpha is.
    """
    alpha = image[:, :, 3:].astype(np.float32)
    planes = np.concatenate([image[:, :, :3].astype(np.float32) * (alpha / 255), alpha], axis=2)
    planes = cv2.resize(planes, (width, height), interpolation=cv2.INTER_AREA)
    coverage = planes[:, :, 3:] / 255
    # Alpha that rounds to 0 leaves colour unused; the floor only keeps the division finite.
    planes[:, :, :3] = np.where(coverage > 0.5 / 255, planes[:, :, :3] / np.maximum(coverage, 1e-6), 0)
    return np.rint(np.clip(planes, 0, 255)).astype(np.uint8)


def _decode(path: Path) -> NDArray[np.uint8]:
    """Grey [H,W], BGR [H,W,3] or BGRA [H,W,4], upright."""
    data = Path(path).read_bytes()
    # OpenCV decodes what there is of a cut file on some versions, and says nothing.
    if data.startswith(PNG_SIGNATURE) and PNG_TRAILER not in data[-64:]:
        raise ValueError(f"{path}: truncated PNG ({len(data)} bytes, its end is missing)")
    if data.startswith(PNG_SIGNATURE) and not _chunks_fit(data):
        raise ValueError(f"{path}: damaged PNG: a chunk says to be longer than the file of {len(data)} bytes")
    size = _size_of(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{path}: {size[0]} x {size[1]} pixels; pictures of up to {MAX_PIXELS >> 20} million pixels "
                         "are read")
    image, orientation = _decoded_bytes(data)
    if image is None:
        raise ValueError(f"{path}: not a readable image, or damaged ({len(data)} bytes)")
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)  # 65535 = 257 * 255; rounds, without a copy in float
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: 8 or 16 bits per channel expected, got {_describe(image)}; save it as 8-bit PNG")
    if image.ndim == 3 and image.shape[2] == 2:
        image = image[:, :, [0, 0, 0, 1]]
    turn = TURNS.get(orientation)
    return np.ascontiguousarray(image if turn is None else turn(image))


def _chunks_fit(data: bytes) -> bool:
    """Whether every chunk of a PNG ends within it: OpenCV takes memory for a chunk by its stated length."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        position += 12 + int.from_bytes(data[position:position + 4], "big")
    return position <= len(data)


def _decoded_bytes(data: bytes) -> tuple[np.ndarray | None, int]:
    """Pixels as stored, None if they cannot be decoded, and their EXIF orientation."""
    if not data:
        return None, 1
    try:
        image, kinds, metadata = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None, 1
    exif = [np.asarray(content).tobytes() for kind, content in zip(np.ravel(kinds), metadata, strict=True)
            if kind == cv2.IMAGE_METADATA_EXIF]
    return image, exif_orientation(exif[0]) if exif else 1


def _size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a PNG or JPEG states; None for others and for damaged ones."""
    if data.startswith(PNG_SIGNATURE) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    position = 2
    while data.startswith(b"\xff\xd8") and position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2:position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header (ITU T.81, table B.1)
            height, width = struct.unpack(">HH", data[position + 5:position + 9])
            return width, height
        position += 1 if marker == 0xFF else 2 + length
    return None


def _describe(image: np.ndarray) -> str:
    return f"{image.dtype} {list(image.shape)}"
