"""Which pose to export, from the flags; and the formats that hold one pose a file."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from arguments.export_settings import ExportSettings
from exporting.splat_files import write_gltf, write_ply, write_splat, write_spz
from exporting.splats import SplatCloud, posed_splats
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle
from player.player import Player
from scene.rig import Codes
from utils.plain_json import read_json

Writer = Callable[[SplatCloud, Path], None]
WRITERS: dict[str, tuple[Writer, str]] = {
    "ply": (write_ply, ".ply"), "splat": (write_splat, ".splat"), "spz": (write_spz, ".spz"),
    "gltf": (write_gltf, ".glb"),
}
# What --up auto means. Viewers of ply and splat expect y down, as cameras of 3D Gaussian splatting have it; spz says y
# up (but some viewers, SuperSplat among them, do not turn it); gltf prescribes it.
UPWARDS = {"ply": "-y", "splat": "-y", "spz": "y", "gltf": "y"}
LARGEST = 1e38
HALF_TURN = np.diag([1.0, -1.0, -1.0])  # about x: y up, z towards the viewer -> y down, z away


def frame_numbers(text: str, count: int) -> range:
    """The frames of FIRST:END[:STEP] (END not included, either may be left out) of a clip of `count`.

    ValueError for text of another form or frames outside the clip.
    """
    match = re.fullmatch(r"(\d*):(\d*)(?::(\d+))?", text)
    if match is None or match[3] == "0":
        raise ValueError(f"--frames: wanted FIRST:END or FIRST:END:STEP such as 0:100:2, got {text!r}")
    frames = range(int(match[1] or 0), int(match[2] or count), int(match[3] or 1))
    if not frames or frames.stop > count:
        raise ValueError(f"--frames: wanted frames 0 to {count - 1} of the clip (END at most {count}), got {text!r}")
    return frames


def _is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a number that single precision holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _named(given: dict[str, Any], names: tuple[str, ...], flag: str) -> dict[int, float]:
    """Index -> value of named expressions; ValueError with the closest name for one that the head has not."""
    found = {}
    for name, value in given.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"names are {names[0]!r} to {names[-1]!r}"
            raise ValueError(f"{flag}: the head has no expression {name!r}; {hint}")
        if not _is_finite(value):
            raise ValueError(f"{flag}: {name}: wanted a finite number, got {value!r:.60}")
        found[names.index(name)] = float(value)
    return found


def _pairs(texts: tuple[str, ...]) -> dict[str, float]:
    pairs = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            pairs[name] = float(value)
        except ValueError:
            raise ValueError(f"--expression: wanted name=value such as jawOpen=0.5, got {text!r}") from None
    return pairs


def with_expression(codes: Codes, values: dict[int, float], expression_jaw: Tensor) -> Codes:
    """Codes of one frame with some expression coefficients replaced (a copy).

    expression_jaw [E,3]: the jaw's rotation vector that belongs to an expression at coefficient 1 (`Head`): the jaw
    turns with the change, as it does in faces that are tracked with such a head. Zeros leave it.
    """
    expression, jaw = codes.expression.clone(), codes.jaw
    for index, value in values.items():
        expression[:, index] = value
    turn = (expression - codes.expression) @ expression_jaw.to(expression)
    if bool(turn.any()):
        jaw = matrix_to_6d(matrix_from_axis_angle(matrix_to_axis_angle(matrix_from_6d(jaw)) + turn))
    return dataclasses.replace(codes, expression=expression, jaw=jaw)


def read_codes(path: Path, rest: Codes, names: tuple[str, ...], expression_jaw: Tensor) -> Codes:
    """The pose of a JSON file on top of `rest` (codes of one frame); its fields are optional.

    Named expressions take the jaw with them (see `with_expression`) unless the file says the jaw; lists do not.
    ValueError naming the file for what is no such JSON, an unknown field or name, a wrong length or number.
    """
    try:
        given = read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"--codes: {path}: not a readable JSON file ({error})") from None
    if not isinstance(given, dict):
        raise ValueError(f"--codes: {path}: wanted an object of codes, got {type(given).__name__}")
    known = ("expression", "jaw", "eyes", "eyelids", "neck")
    changed: dict[str, Tensor] = {}
    for field, values in given.items():
        if field not in known:
            raise ValueError(f"--codes: {path}: unknown field {field!r}; wanted {', '.join(known)}")
        if field == "expression" and isinstance(values, dict):
            named = with_expression(rest, _named(values, names, f"--codes: {path}"), expression_jaw)
            changed = {"jaw": named.jaw} | changed | {"expression": named.expression}
            continue
        width = {"expression": len(names), "jaw": 6, "eyes": 12, "eyelids": 2, "neck": 6}[field]
        changed[field] = _row(values, width, f"--codes: {path}: {field}", rest.expression)
    return dataclasses.replace(rest, **changed)


def _row(values: Any, width: int, where: str, like: Tensor) -> Tensor:
    """[1,width] of a JSON list; an expression list may be shorter (zeros follow)."""
    flat = isinstance(values, list) and all(map(_is_finite, values))
    shorter = where.endswith("expression") and flat and len(values) <= width
    if not flat or not (len(values) == width or shorter):
        size = len(values) if isinstance(values, list) else type(values).__name__
        raise ValueError(f"{where}: wanted a list of {width} finite numbers, got {size}")
    return like.new_tensor([*values, *[0.0] * (width - len(values))])[None]


def chosen_poses(player: Player, settings: ExportSettings) -> list[tuple[str, Codes]]:
    """(file stem, codes of one frame) of every pose that the flags ask for. ValueError for flags that contradict."""
    given = [name for name in ("frame", "frames", "codes") if getattr(settings, name) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} both say the pose; give one of them")
    count = len(player.clip)
    changes = _named(_pairs(settings.expression), player.expression_names, "--expression")
    jaw = player.head.expression_jaw
    if settings.frames is not None:
        frames = frame_numbers(settings.frames, count)
        return [(f"{i:05d}", with_expression(player.codes_of(i), changes, jaw)) for i in frames]
    if settings.frame is not None:
        if not 0 <= settings.frame < count:
            raise ValueError(f"--frame: wanted 0 to {count - 1}, the frames of the clip, got {settings.frame}")
        codes, stem = player.codes_of(settings.frame), f"frame_{settings.frame:05d}"
    elif settings.codes is not None:
        codes = read_codes(settings.codes, player.neutral_codes(), player.expression_names, jaw)
        stem = settings.codes.stem
    else:
        codes, stem = player.neutral_codes(), "expression" if changes else "neutral"
    return [(stem, with_expression(codes, changes, jaw))]


def refuse_pose(settings: ExportSettings) -> None:
    """ValueError if a flag says a pose, for formats that hold the whole avatar."""
    given = [name for name in ("frame", "frames", "codes", "expression") if getattr(settings, name) not in (None, ())]
    if given:
        raise ValueError(f"--{given[0]}: --format {settings.format} holds the avatar, not a pose; leave it out")


def export_poses(player: Player, settings: ExportSettings) -> Path:
    """Write one file, or for --frames a folder of numbered ones, and return it."""
    writer, suffix = WRITERS[settings.format]
    up = UPWARDS[settings.format] if settings.up == "auto" else settings.up
    if up == "-y" and settings.format == "gltf":
        raise ValueError("--up -y: gltf prescribes y up; leave --up out")
    poses = chosen_poses(player, settings)
    folder = settings.model_path / "export"
    if settings.frames is None:
        target = settings.output or folder / f"{poses[0][0]}{suffix}"
        if target.is_dir() or target.suffix != suffix:
            raise ValueError(f"--output: wanted the name of a {suffix} file, got {target}")
        files = [target]
    else:
        target = settings.output or folder / f"{settings.format}_frames"
        if target.is_file():
            raise ValueError(f"--output: wanted a folder for --frames, got the file {target}")
        files = [target / f"{stem}{suffix}" for stem, _ in poses]
    pairs = list(zip(files, poses, strict=True))
    for path, (_, codes) in tqdm(pairs, unit="frame", disable=len(pairs) < 2):
        cloud = posed_splats(player, codes)
        writer(cloud.rotated(HALF_TURN) if up == "-y" else cloud, path)
    return target
