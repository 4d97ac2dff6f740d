"""The settings of export.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Alias = tyro.conf.arg
Format = Literal["ply", "splat", "spz", "gltf", "npy", "avatar", "web", "gbav"]


@dataclass(frozen=True)
class ExportSettings:
    """Write a trained avatar in a format that other programs read.

    ply, splat, spz and gltf hold one pose: the neutral head, or what --frame, --codes or --expression say; --frames
    writes a folder of numbered files. npy, avatar, web and gbav hold the whole avatar. docs/export.md has examples.
    """

    model_path: tyro.conf.Positional[Path]
    """Output folder of a training run, or a folder of the reference's checkpoint files."""
    format: Annotated[Format, Alias(aliases=["-f"])] = "ply"
    """ply: standard 3DGS; splat: 32 bytes a Gaussian; spz: compressed; gltf: KHR_gaussian_splatting (.glb);
    npy: folders of the reference's viewer; avatar: one compact file that poses; web: a page for the browser;
    gbav: a file for the package in web/ (three.js, Spark)."""
    output: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """File or folder to write; default: MODEL_PATH/export/..., named for format and pose."""
    frame: int | None = None
    """Pose of this frame of the clip the avatar was trained on."""
    frames: str | None = None
    """Sequence FIRST:END or FIRST:END:STEP of the clip's frames (END not included): one numbered file each."""
    codes: Path | None = None
    """Pose from a JSON file: {"expression": {name: value} or [numbers], "jaw": [6], "eyes": [12], "eyelids": [2]}."""
    expression: tuple[str, ...] = ()
    """Pose from name=value pairs; what is not named stays at rest (with --frame: as in the frame)."""
    camera: str = ""
    """web: puts "use my camera" in the page (15 MB more). Folder of the npm package @mediapipe/tasks-vision, or npm to
    fetch it; empty: a page without."""
    face_model: Path | None = None
    """web with --camera: MediaPipe's face_landmarker.task; without it, data/mediapipe or a download, as in track.py."""
    up: Literal["auto", "y", "-y"] = "auto"
    """Axis that points up in the file. y: as in the head model; -y: turned about x, as viewers of ply and splat expect.
    auto: -y for ply and splat, y for spz and gltf (which prescribes it)."""
    source_path: Annotated[Path | None, Alias(aliases=["-s"])] = None
    """Data set folder, for a model of the reference whose data set is no longer where it was trained."""
    iteration: int = -1
    """Checkpoint to load; -1 = the newest."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
