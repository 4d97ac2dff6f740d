"""`--format web`: a folder with a page in which the avatar lives, to be opened from the disk or any static server."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from blendshape_ops import CODE_SLACK, MEANS
from torch import Tensor

from arguments.export_settings import ExportSettings
from exporting.web.head import Table, head_tables
from exporting.web.tables import live_pairs, pack_gaussians, pack_pairs
from player.player import Player
from player.views import UNSEEN_BEYOND, front_clip, front_frame, seen_directions
from scene.clip import Clip
from utils.atomic import replacing_folder

PAGE = Path(__file__).with_name("page")
DATA_FILE, SHADER_FILE = "avatar.js", "shaders.js"
_TYPES = {"<u4": "u32", "<u2": "u16", "<f2": "f16", "<f4": "f32"}


def export_web(player: Player, settings: ExportSettings) -> Path:
    """Write the page of an avatar into a new folder and return it.

    ValueError when the folder is there already or the avatar does not fit the page; WriteError when the disk refuses.
    Then nothing is written.
    """
    target = settings.output if settings.output is not None else settings.model_path / "export" / "web"
    if target.exists():
        raise ValueError(f"--output: {target} exists already; the page wants a new folder: delete it or name another")
    meta, tables = page_data(player)
    with replacing_folder(target) as temporary:
        for source in sorted(PAGE.iterdir()):
            if source.suffix in {".html", ".css", ".js"}:
                shutil.copyfile(source, temporary / source.name)
        (temporary / SHADER_FILE).write_text(_shaders(), encoding="utf-8")
        (temporary / DATA_FILE).write_text(_script(meta, tables), encoding="utf-8")
    return target


def page_data(player: Player) -> tuple[dict[str, Any], dict[str, Table]]:
    """What avatar.js holds: small facts, and named arrays (layouts in docs/web.md). ValueError where they do not fit.

    meta.front: the frame whose camera looks into the face.
    """
    avatar, head, clip = player.avatar, player.head, front_clip(player.clip)
    pairs = live_pairs(avatar)
    target = avatar.neutral.detach().cpu()[:, MEANS].median(dim=0).values
    tables = {"gaussians": pack_gaussians(avatar, pairs), "pairs": pack_pairs(pairs), **head_tables(player),
              **_clip_tables(clip), "codeRange": avatar.code_range.cpu().numpy().astype("<f4"),
              "seenRange": _seen_range(player).numpy().astype("<f4"),
              "seenViews": seen_directions(player, target.numpy()).astype("<f4")}
    meta = {"name": player.name, "gaussians": avatar.count, "pairs": len(pairs.values), "degree": player.sh_degree,
            "driven": player.num_expressions, "codeSlack": CODE_SLACK, "expressionNames": list(player.expression_names),
            "vertices": len(tables["vertexStart"]) - 1, "triangles": len(tables["faces"]),
            "parents": list(head.parents), "correctives": player.rig.pose_dirs is not None,
            "frames": len(clip), "width": clip.width, "height": clip.height, "front": front_frame(clip),
            "target": target.tolist(), "unseenBeyond": UNSEEN_BEYOND}
    return meta, tables


def _seen_range(player: Player) -> Tensor:
    """[2,K] codes that sliders offer: the limits of the avatar, or, where it has none, what the clip shows."""
    limits, codes = player.avatar.code_range.cpu(), player.clip.codes.expression[:, :player.num_expressions]
    shown = torch.stack([codes.amin(dim=0).clamp(max=0), codes.amax(dim=0).clamp(min=0)])
    return torch.where(limits.isfinite(), limits, shown)


def _clip_tables(clip: Clip) -> dict[str, Table]:
    codes = clip.codes
    named = {"clipExpression": codes.expression, "clipJaw": codes.jaw, "clipEyes": codes.eyes,
             "clipEyelids": codes.eyelids, "clipRotation": clip.R, "clipTranslation": clip.t, "clipIntrinsics": clip.K}
    if codes.neck is not None:
        named["clipNeck"] = codes.neck
    return {name: tensor.cpu().contiguous().numpy().astype("<f4") for name, tensor in named.items()}


def _shaders() -> str:
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir())
               if path.suffix in {".vert", ".frag"}}
    return f'"use strict";\nconst SHADERS = {json.dumps(sources, indent=1)};\n'


def _script(meta: dict[str, Any], tables: dict[str, Table]) -> str:
    """JavaScript that defines AVATAR. A script and not a file to fetch: pages opened from the disk may not fetch."""
    encoded = {name: {"type": _TYPES[table.dtype.str], "data": base64.b64encode(table.tobytes()).decode()}
               for name, table in tables.items()}
    return f'"use strict";\nconst AVATAR = {json.dumps({"meta": meta, "tables": encoded})};\n'
