"""Splat files of one pose: .ply, .splat, .spz and .glb. Layouts: docs/formats.md.

Every writer raises ValueError where there is no Gaussian to write, and utils.atomic.WriteError.
"""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporting.splats import FloatArray, SplatCloud
from utils.atomic import write_bytes

SMALLEST_SCALE = 1e-12  # metres; its logarithm is finite, and nothing smaller can be seen


def _check_some(cloud: SplatCloud, path: Path) -> None:
    """Readers differ in what they make of a file without Gaussians; most refuse it."""
    if len(cloud) == 0:
        raise ValueError(f"{path}: not written: there is no Gaussian to write; training removed all of them, or none "
                         "is finite")


def _logits(opacities: FloatArray) -> FloatArray:
    p = opacities.astype(np.float64).clip(1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float32)


def _log_scales(scales: FloatArray) -> FloatArray:
    return np.asarray(np.log(scales.clip(min=SMALLEST_SCALE)), dtype=np.float32)


def write_ply(cloud: SplatCloud, path: Path) -> None:
    """The file of 3D Gaussian splatting: binary little-endian float32, 62 a vertex, harmonics up to degree 3.

    Lower degrees are filled up with zeros, because many readers refuse anything but the full layout.
    """
    _check_some(cloud, path)
    count = len(cloud)
    sh = np.zeros((count, 16, 3), dtype=np.float32)
    sh[:, :cloud.sh.shape[1]] = cloud.sh
    rest = sh[:, 1:].transpose(0, 2, 1).reshape(count, 45)  # channel by channel
    columns = [cloud.means, np.zeros((count, 3)), sh[:, 0], rest, _logits(cloud.opacities)[:, None],
               _log_scales(cloud.scales), cloud.quats]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(45)),
             "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    properties = "".join(f"property float {name}\n" for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    write_bytes(path, header.encode() + np.concatenate(columns, axis=1, dtype="<f4", casting="same_kind").tobytes())


def _bytes_of(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Rounded to 0..255."""
    return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)


def write_splat(cloud: SplatCloud, path: Path) -> None:
    """32 bytes a Gaussian, the largest and most opaque first: position, scale, RGBA, quaternion (w first)."""
    _check_some(cloud, path)
    order = np.argsort(-cloud.scales.astype(np.float64).prod(axis=1) * cloud.opacities, kind="stable")
    layout = [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)]
    rows = np.empty(len(cloud), dtype=layout)
    rows["position"], rows["scale"] = cloud.means[order], cloud.scales[order]
    rows["rgba"] = _bytes_of(255 * np.column_stack([cloud.base_colors, cloud.opacities])[order])
    rows["quat"] = _bytes_of(128 * cloud.quats[order] + 128)
    write_bytes(path, rows.tobytes())


SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 3
SPZ_COLOR_SCALE = 0.15


def _smallest_three(quats: FloatArray) -> NDArray[np.uint32]:
    """[N] words of unit quaternions (w,x,y,z): 2 bits name the largest of x,y,z,w, the others follow in that order.

    Each takes a sign bit and 9 bits of |q| sqrt(2), which is at most 1 for what is not the largest.
    """
    xyzw = quats[:, [1, 2, 3, 0]].astype(np.float64)
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw *= np.where(xyzw[np.arange(len(xyzw)), largest] < 0, -1, 1)[:, None]  # q and -q are one rotation
    words = largest.astype(np.uint32)
    for component in range(4):
        value = xyzw[:, component]
        magnitude = np.round(511 * np.sqrt(2) * np.abs(value)).clip(0, 511).astype(np.uint32)
        bits = np.where(value < 0, np.uint32(512), np.uint32(0)) | magnitude
        words = np.where(largest == component, words, words << np.uint32(10) | bits)
    return words.astype("<u4")


def write_spz(cloud: SplatCloud, path: Path) -> None:
    """Version 3 of the compressed format: gzip over one byte a number, positions in 24-bit fixed point.

    The fraction takes as many bits as the largest coordinate leaves of the 23, at most 20. The harmonics keep all 8
    bits: the format's usual 5 and 4 show as coloured blotches on skin (37 dB instead of 59 on the demo). Raises
    ValueError beyond 2^22 metres.
    """
    _check_some(cloud, path)
    reach = float(np.abs(cloud.means).max())
    fraction = min(20, 23 - max(1, int(np.ceil(np.log2(max(reach, 1e-9) + 1e-6))) + 1))
    if fraction < 0:
        raise ValueError(f"{path}: the .spz format holds positions below 2^22 metres, got {reach:g}")
    fixed = np.round(cloud.means.astype(np.float64) * (1 << fraction)).astype("<i4")
    positions = fixed.view(np.uint8).reshape(-1, 3, 4)[..., :3]
    colors = cloud.sh[:, 0] * SPZ_COLOR_SCALE * 255 + 0.5 * 255
    blocks = [positions, _bytes_of(255 * cloud.opacities), _bytes_of(colors),
              _bytes_of(16 * (_log_scales(cloud.scales) + 10)), _smallest_three(cloud.quats),
              _bytes_of(128 * cloud.sh[:, 1:] + 128)]
    header = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, len(cloud), cloud.sh_degree, fraction, 0, 0)
    packed = header + b"".join(np.ascontiguousarray(block).tobytes() for block in blocks)
    write_bytes(path, gzip.compress(packed, mtime=0))


def write_gltf(cloud: SplatCloud, path: Path) -> None:
    """A .glb with one POINTS primitive of KHR_gaussian_splatting, all float32, and COLOR_0 for other viewers."""
    _check_some(cloud, path)
    xyzw = cloud.quats[:, [1, 2, 3, 0]]
    rgba = np.column_stack([cloud.base_colors.clip(0, 1), cloud.opacities])
    prefix = "KHR_gaussian_splatting:"
    attributes = {"POSITION": cloud.means, "COLOR_0": rgba, f"{prefix}ROTATION": xyzw, f"{prefix}SCALE": cloud.scales,
                  f"{prefix}OPACITY": cloud.opacities}
    for j in range(cloud.sh.shape[1]):
        degree = int(j ** 0.5)
        attributes[f"{prefix}SH_DEGREE_{degree}_COEF_{j - degree * degree}"] = cloud.sh[:, j]
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    data = bytearray()
    for values in attributes.values():
        raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(raw), "target": 34962})
        kind = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        accessors.append({"bufferView": len(accessors), "componentType": 5126, "count": len(cloud), "type": kind})
        data += raw
    accessors[0] |= {"min": cloud.means.min(axis=0).tolist(), "max": cloud.means.max(axis=0).tolist()}
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance",
                 "projection": "perspective"}
    document = {
        "asset": {"version": "2.0"}, "extensionsUsed": ["KHR_gaussian_splatting"], "scene": 0,
        "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"primitives": [{"mode": 0, "attributes": {name: i for i, name in enumerate(attributes)},
                                    "extensions": {"KHR_gaussian_splatting": extension}}]}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + bytes(data)
    write_bytes(path, struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
