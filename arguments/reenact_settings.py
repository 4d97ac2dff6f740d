"""The settings of reenact.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.stream_settings import StreamSettings

Alias = tyro.conf.arg


@dataclass(frozen=True)
class ReenactSettings:
    """Drive an avatar with another face, and film it. docs/reenact.md has examples.

    The face comes from --driver, --video, --webcam or --udp; with none of them the avatar plays its own clip, and with
    --sweep its expressions one by one.
    """

    model_path: tyro.conf.Positional[Path]
    """Output folder of a training run, or a folder of the reference's checkpoint files."""
    driver: Path | None = None
    """Who drives: a run's output folder, a data set (as track.py writes), or a CSV of ARKit blendshapes."""
    same_person: bool = False
    """The data set of --driver shows the avatar's own person, tracked by the program that tracked its training clip:
    correct pose and codes by what training learnt of that program's errors. False for other people: theirs differ."""
    video: Path | None = None
    """A film of a face that drives, read by MediaPipe. Quick; track.py and --driver are better."""
    webcam: str | None = None
    """Number of a camera (0 is the first) that drives, live, shown on a page in the browser."""
    stream: tyro.conf.OmitArgPrefixes[StreamSettings] = field(default_factory=StreamSettings)
    sweep: bool = False
    """Film every expression in turn, from rest to full and back, with its name."""
    output: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """Video to write, .mp4; default: MODEL_PATH/reenact/NAME.mp4. With --webcam and --udp: none unless given."""
    center: Literal["none", "rest", "mean"] = "rest"
    """Replace the driver's habitual expression, jaw and gaze by the avatar's: subtract the driver's, add the avatar's.
    rest = the face between expressions; mean = the mean of all frames."""
    project: Literal["none", "range", "subspace"] = "range"
    """Keep codes where the avatar was trained: range = each code between its training extremes; subspace = also only
    combinations that training had (principal components); none = as they come. Turns of the head are kept likewise."""
    smooth: int = 0
    """Savitzky-Golay over so many frames (odd, from 5) of codes and head motion; 0 = off. --video, --webcam and
    --udp are steadied anyway (One Euro filter)."""
    head_motion: Literal["driver", "clip", "none"] = "driver"
    """How the head moves: as the driver's, as in the avatar's own clip, or not at all."""
    orbit: float = 0.0
    """Swing the view around the head by so many degrees to either side; 0 = do not."""
    orbit_seconds: float = 4.0
    """Seconds of one swing to the left, the right and back."""
    side_by_side: bool = False
    """Show the driver's pictures to the left, where it has any."""
    frames: str | None = None
    """FIRST:END or FIRST:END:STEP of the driver's frames (END not included)."""
    fps: float | None = None
    """Frames a second of the video; default: the driver's own, or 25 where it does not tell."""
    size: int | None = None
    """Height of the video in pixels; default: that of the avatar's clip."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Red, green and blue from 0 to 1 behind the avatar."""
    sweep_seconds: float = 1.0
    """Seconds of each expression of a sweep."""
    sweep_amplitude: float | None = None
    """Code at the height of each; default: 1 for ARKit's expressions, 2 for FLAME's (standard deviations)."""
    driver_head: str = "auto"
    """Head model of a data set that drives: auto (what its files say), open, flame, or a FLAME .pkl / head .npz."""
    source_path: Annotated[Path | None, Alias(aliases=["-s"])] = None
    """Data set of the avatar, for a model of the reference whose data set is no longer where it was trained."""
    face_model: Path | None = None
    """MediaPipe's face_landmarker.task for --video and --webcam; None = data/mediapipe, downloaded once."""
    host: str = "127.0.0.1"
    """Address of the page of --webcam and --udp: this machine alone, unless you say 0.0.0.0."""
    port: int = 8090
    """Port of the page of --webcam and --udp; 0 takes any free one."""
    iteration: int = -1
    """Checkpoint to load; -1 = the newest."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
