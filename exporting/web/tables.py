"""The Gaussians of an avatar as integer textures for WebGL2: rows of 32-bit words, halves where they are enough.

Both tables are read by page/pose.frag with texelFetch, four words (one RGBA32UI texel) at a time. docs/web.md has the
layout in a table. `read_gaussians` and `read_pairs` are the inverse, for tests and for whoever wants the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from blendshape_ops import GEOMETRY, LOG_SCALES, MEANS, OPACITY, QUATS, SH
from numpy.typing import NDArray

from scene.avatar import Avatar

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

GAUSSIAN_WORDS, PAIR_WORDS = 40, 20
MAX_BONES, MAX_PAIRS, MAX_TRIANGLES = 8, 255, 2**24 - 2
MEAN_UNIT = 1024.0
"""Position differences (metres) are multiplied by this: most are below 6e-5, where halves lose digits and some GPUs
read zero."""


@dataclass(frozen=True)
class PairTable:
    """Differences of all (Gaussian, expression) pairs that can move: values [P,59] with the mask multiplied in.

    offsets [N+1] int64: the pairs of Gaussian n are rows offsets[n] to offsets[n+1]; expression [P] int64.
    """

    values: Floats
    offsets: NDArray[np.int64]
    expression: NDArray[np.int64]


def live_pairs(avatar: Avatar) -> PairTable:
    """The pairs of expressions whose code training saw move.

    The others are never driven: codes are limited to `avatar.code_range` before they reach the differences.
    """
    d = avatar.differences
    expression = d.expression.cpu().long()
    kept = (avatar.code_range.cpu() != 0).any(dim=0)[expression]
    values = (d.mask[:, None] * d.values).detach().cpu()[kept, :SH.stop]
    counts = torch.bincount(d.gaussian.cpu().long()[kept], minlength=avatar.count)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return PairTable(values.numpy(), offsets.numpy(), expression[kept].numpy())


def halves(values: NDArray[np.floating]) -> Words:
    """[..., 2n] numbers as [..., n] words, the first of two in the low bits; NaN and infinities stay what they are."""
    return np.ascontiguousarray(values, dtype="<f2").view("<u4")


def unorms(values: NDArray[np.floating]) -> Words:
    """[..., 2n] numbers in [0,1] as [..., n] words of two 16-bit fractions."""
    return np.ascontiguousarray(np.rint(np.clip(values, 0, 1) * 65535), dtype="<u2").view("<u4")


def pack_gaussians(avatar: Avatar, pairs: PairTable) -> Words:
    """[N,40]: neutral row, binding and where the pairs lie. ValueError where the layout has no room."""
    row = avatar.neutral.detach().cpu().numpy()
    binding, counts = avatar.binding, np.diff(pairs.offsets)
    weights = binding.weights.cpu().numpy()
    triangle = binding.triangle.cpu().numpy().astype(np.int64)
    _check_room("bones", weights.shape[1], MAX_BONES)
    _check_room("expressions of one Gaussian", int(counts.max(initial=0)), MAX_PAIRS)
    _check_room("triangles", int(triangle.max(initial=-1)), MAX_TRIANGLES)
    words = np.zeros((len(row), GAUSSIAN_WORDS), dtype="<u4")
    words[:, 0:3] = _floats(row[:, MEANS])
    words[:, 3] = (triangle + 1) | (counts << 24)
    words[:, 4:7] = _floats(row[:, LOG_SCALES])
    words[:, 7:8] = _floats(row[:, OPACITY])
    words[:, 8:10] = halves(row[:, QUATS])
    words[:, 10:11] = unorms(binding.barycentric[:, :2].cpu().numpy())
    words[:, 11] = pairs.offsets[:-1]
    words[:, 12:16] = unorms(np.pad(weights, ((0, 0), (0, MAX_BONES - weights.shape[1]))))
    words[:, 16:40] = halves(_by_channel(row[:, SH]))
    return words


def pack_pairs(pairs: PairTable) -> Words:
    """[P,20]: geometry in halves, the 48 colour coefficients in 8 bits each, in steps stored with the row."""
    values = pairs.values
    words = np.zeros((len(values), PAIR_WORDS), dtype="<u4")
    geometry = np.zeros((len(values), 12), np.float32)
    geometry[:, GEOMETRY] = values[:, GEOMETRY]
    geometry[:, MEANS] *= MEAN_UNIT
    words[:, 0:6] = halves(geometry)
    words[:, 5] |= pairs.expression.astype("<u4") << np.uint32(16)
    colors = _by_channel(values[:, SH])
    step = np.abs(colors).max(axis=1, keepdims=True, initial=0).astype(np.float32) / np.float32(127)
    words[:, 6:7] = _floats(step)
    steps = np.rint(colors / np.maximum(step, 1e-30)).astype(np.int8)
    words[:, 8:20] = np.ascontiguousarray(steps).view("<u4")
    return words


def read_gaussians(words: Words) -> dict[str, NDArray[Any]]:
    """The inverse of `pack_gaussians`: neutral [N,59], triangle, count, start [N], barycentric [N,3], weights [N,8]."""
    neutral = np.concatenate([words[:, 0:3].copy().view("<f4"), _read_halves(words[:, 8:10]),
                              words[:, 4:8].copy().view("<f4"), _by_coefficient(_read_halves(words[:, 16:40]))], axis=1)
    two = _read_unorms(words[:, 10:11])
    return {"neutral": neutral, "triangle": (words[:, 3] & 0xFFFFFF).astype(np.int64) - 1, "count": words[:, 3] >> 24,
            "start": words[:, 11], "barycentric": np.concatenate([two, 1 - two.sum(1, keepdims=True)], axis=1),
            "weights": _read_unorms(words[:, 12:16])}


def read_pairs(words: Words) -> tuple[Floats, NDArray[np.int64]]:
    """The inverse of `pack_pairs`: values [P,59] and expression [P]."""
    geometry = _read_halves(words[:, 0:6])[:, GEOMETRY]
    geometry[:, MEANS] /= MEAN_UNIT
    step = words[:, 6:7].copy().view("<f4")
    colors = words[:, 8:20].copy().view(np.int8).astype(np.float32) * step
    return np.concatenate([geometry, _by_coefficient(colors)], axis=1), (words[:, 5] >> 16).astype(np.int64)


def _by_channel(colors: Floats) -> Floats:
    """[n,48] from [16][3] to [3][16]: one channel's coefficients lie together, four to a vector of the shader."""
    return colors.reshape(-1, 16, 3).transpose(0, 2, 1).reshape(-1, 48)


def _by_coefficient(colors: Floats) -> Floats:
    return colors.reshape(-1, 3, 16).transpose(0, 2, 1).reshape(-1, 48)


def _floats(values: NDArray[np.floating]) -> Words:
    return np.ascontiguousarray(values, dtype="<f4").view("<u4")


def _read_halves(words: Words) -> Floats:
    return np.ascontiguousarray(words).view("<f2").astype(np.float32)


def _read_unorms(words: Words) -> Floats:
    return np.ascontiguousarray(words).view("<u2").astype(np.float32) / np.float32(65535)


def _check_room(what: str, got: int, room: int) -> None:
    if got > room:
        raise ValueError(f"web: the page has room for {room} {what}, this avatar has {got}")
