"""The compact avatar file that a browser fetches: a header and sections in the order in which they are wanted.

    "GBAV", version, length of the header (three 32-bit words), header (JSON), sections (zlib)

The header names sections, their tables (`exporting/web/coding.py`) and facts about the avatar. The sections are the
head, the clip, the neutral face, its sheen, the differences of the expressions; after the third there is a picture.
web/src/core/file.js reads it; docs/web.md has the layout in a table.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from blendshape_ops import CODE_SLACK, MEANS
from torch import Tensor

from exporting.web.coding import Section, Whole, quantized
from exporting.web.head import head_section
from exporting.web.tables import (
    BARYCENTRIC_STEP,
    WEIGHT_STEP,
    Rounded,
    base_section,
    order_of,
    pair_section,
    rebuilt,
    rounded,
    sheen_section,
)
from player.player import Player
from player.views import UNSEEN_BEYOND, front_clip, front_frame, seen_directions
from player.visibility import View, seen_shares, spread_views

log = logging.getLogger(__name__)

MAGIC, VERSION = b"GBAV", 1
LEAST_PSNR = 51.0
"""Of pictures of the file against those of the avatar: no difference can be seen."""
EXPRESSION_STEP = 5e-4  # of a code of the clip: a hundredth of a millimetre where the face moves most
_FIRST_SCALE, _TRIALS, _CLOSE = 0.35, 6, 0.6  # the last in dB above the least
_FRAMES, _SWING = 6, 0.35  # looked at: so many frames of the clip, and from that many radians to the left and right
_COARSER = 3  # a Gaussian's steps are at most 2^3 times those of one that is seen best,
_BEST = 0.98  # which means better than this share of all


@dataclass(frozen=True)
class Packed:
    """The file's bytes, where its first picture is complete, its facts, and how far its pictures are from the avatar's.
    """

    data: bytes
    first: int
    meta: dict[str, Any]
    psnr: float


def packed_avatar(player: Player) -> Packed:
    """The avatar as a file. ValueError where it does not fit."""
    views = spread_views(player, _FRAMES, _SWING, _target(player))
    wanted = [player.render(codes, cameras).image for codes, cameras in views]
    numbers, psnr = _fitting(player, views, wanted)
    meta = facts(player, numbers)
    sections = {"head": head_section(player), "clip": clip_section(player), "base": base_section(player, numbers),
                "sheen": sheen_section(numbers), "pairs": pair_section(numbers)}
    _add_ranges(sections["head"], player, numbers)
    data, first = _joined(meta, sections)
    log.info("%d of %d Gaussians, %d differences; %.1f MB, %.1f MB to the first picture; at least %.1f dB",
             len(numbers.order), player.avatar.count, len(numbers.pairs), len(data) / 1e6, first / 1e6, psnr)
    return Packed(data, first, meta, psnr)


def facts(player: Player, numbers: Rounded) -> dict[str, Any]:
    """Small facts of the header. front: the frame whose camera looks into the face."""
    head, clip = player.head, front_clip(player.clip)
    return {"name": player.name, "head": head.name, "gaussians": len(numbers.order), "pairs": len(numbers.pairs),
            "degree": player.sh_degree, "driven": player.num_expressions, "codeSlack": CODE_SLACK,
            "expressionNames": list(player.expression_names), "vertices": int(player.rig.faces.max()) + 1,
            "triangles": len(player.rig.faces), "parents": list(head.parents),
            "correctives": player.rig.pose_dirs is not None, "steps": numbers.steps.tolist(),
            "weightStep": WEIGHT_STEP, "barycentricStep": BARYCENTRIC_STEP,
            "frames": len(clip), "width": clip.width, "height": clip.height, "front": front_frame(clip),
            "target": _target(player).tolist(), "unseenBeyond": UNSEEN_BEYOND}


def clip_section(player: Player) -> Section:
    """Codes and cameras of the clip's frames, and from where training saw the head."""
    clip, section = front_clip(player.clip), Section()
    codes = clip.codes
    expression = quantized(codes.expression.cpu().numpy(), EXPRESSION_STEP)
    section.add_steps("clipExpression", expression, np.full(expression.shape[1], EXPRESSION_STEP), delta=True)
    named = {"clipJaw": codes.jaw, "clipEyes": codes.eyes,
             "clipEyelids": codes.eyelids, "clipNeck": codes.neck, "clipRotation": clip.R, "clipTranslation": clip.t,
             "clipIntrinsics": clip.K, "clipSway": None if player.avatar.sway is None else codes.sway}
    for name, tensor in named.items():
        if tensor is not None:
            section.add_single(name, tensor.cpu().numpy())
    section.add_single("seenViews", seen_directions(player, _target(player).numpy()))
    return section


def _target(player: Player) -> Tensor:
    """[3]: the head's middle at rest."""
    return player.avatar.neutral.detach().cpu()[:, MEANS].median(dim=0).values


def _add_ranges(section: Section, player: Player, numbers: Rounded) -> None:
    """codeRange [2,K] limits what drives the differences; seenRange [2,K] is what sliders offer; reach [K]."""
    limits, codes = player.avatar.code_range.cpu(), player.clip.codes.expression[:, :player.num_expressions]
    shown = torch.stack([codes.amin(dim=0).clamp(max=0), codes.amax(dim=0).clamp(min=0)])
    section.add_single("codeRange", limits.numpy())
    section.add_single("seenRange", torch.where(limits.isfinite(), limits, shown).numpy())
    section.add_single("reach", numbers.reach)


def _joined(meta: dict[str, Any], sections: dict[str, Section]) -> tuple[bytes, int]:
    """The file, and the number of its bytes that make the first picture."""
    packed = {name: zlib.compress(b"".join(section.data), 9) for name, section in sections.items()}
    listed = [{"name": name, "bytes": len(packed[name]), "tables": section.specs} for name, section in sections.items()]
    header = json.dumps({"meta": meta, "sections": listed}, separators=(",", ":")).encode()
    start = MAGIC + struct.pack("<II", VERSION, len(header)) + header
    first = len(start) + sum(len(packed[name]) for name in ("head", "clip", "base"))
    return start + b"".join(packed.values()), first


def _coarse(player: Player, views: list[View]) -> Whole:
    """[N] powers of two by which steps grow where little of a Gaussian is seen."""
    share = seen_shares(player, views).double().cpu().numpy().clip(1e-6)
    return np.rint(np.log2(np.quantile(share, _BEST) / share) / 2).clip(0, _COARSER).astype(np.int64)


def _fitting(player: Player, views: list[View], wanted: list[Tensor]) -> tuple[Rounded, float]:
    """The coarsest numbers found whose pictures are good enough: halving the steps gives 6 dB, nearly."""
    order, scale = order_of(player), _FIRST_SCALE
    coarse = _coarse(player, views)[order]
    best: tuple[Rounded, float] | None = None
    for _ in range(_TRIALS):
        numbers = rounded(player, order, coarse, scale)
        psnr = _least_psnr(rebuilt(player, numbers), views, wanted)
        if best is None or psnr >= LEAST_PSNR or psnr > best[1]:
            best = numbers, psnr
        if LEAST_PSNR <= psnr < LEAST_PSNR + _CLOSE:
            break
        scale *= 2 ** ((psnr - LEAST_PSNR - _CLOSE / 2) / 6)
    assert best is not None
    return best


def _least_psnr(player: Player, views: list[View], wanted: list[Tensor]) -> float:
    errors = [float(((player.render(codes, cameras).image - image) ** 2).mean())
              for (codes, cameras), image in zip(views, wanted, strict=True)]
    return -10 * float(np.log10(max(*errors, 1e-12)))
