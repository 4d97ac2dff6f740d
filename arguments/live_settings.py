"""The settings of live.py. Each field: default, unit, reason; its name is its flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from arguments.settings import ModelSettings, OptimizationSettings, RefinementSettings

Alias = tyro.conf.arg


@dataclass(frozen=True)
class LiveSettings:
    """Learn an avatar while its person sits before a camera, and watch it become sharp. docs/live.md says how."""

    model_path: Annotated[Path, Alias(aliases=["-m"])]
    """Output folder: a run like train.py's, with the data set that was recorded in it (data/)."""
    webcam: str = "0"
    """Number of the camera; 0 is the first."""
    video: Path | None = None
    """A film that plays the camera's part, at its own pace."""
    landmarks: Path | None = None
    """Landmarks of --video found beforehand (python -m online.recorded_landmarks), where MediaPipe is not installed."""
    size: int = 0
    """Side of the square pictures in pixels; 0 = 512 with a GPU, 256 on a CPU."""
    first_frames: int = 40
    """Pictures from which the identity is fitted and the avatar begins."""
    rate: float = 0.0
    """Pictures a second that are kept, at most; 0 = 8 with a GPU, 3 on a CPU, which must cut out each of them."""
    most_frames: int = 600
    """Pictures that are kept altogether, at most."""
    test_frames: int = 12
    """The newest pictures, which do not train; at the end test.py scores them."""
    seconds: float | None = None
    """Stop after so many seconds; None = at the button, Ctrl-C, or the end of the film."""
    last_seconds: float = 5.0
    """Training with all pictures after the recording has stopped."""
    face_model: Path | None = None
    """MediaPipe's face_landmarker.task; None = data/mediapipe, downloaded once."""
    matting_model: Path | None = None
    """Network that cuts out the person (.tflite, .onnx); None = data/mediapipe's if put there, else GrabCut without."""
    seed: int = 0
    """Seeds Python, NumPy, torch, the surface sampling and the frame order."""
    host: str = "127.0.0.1"
    """Address of the page: this machine alone, unless you say 0.0.0.0 (then anyone who reaches it sees you)."""
    allow_origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Address of your own proxy or port forward, as view.py has it; may be given several times."""
    port: int = 8070
    """Port of the page; 0 takes any free one."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
    model: tyro.conf.OmitArgPrefixes[ModelSettings] = field(default_factory=ModelSettings)
    optimization: tyro.conf.OmitArgPrefixes[OptimizationSettings] = field(
        default_factory=lambda: OptimizationSettings(iterations=6000, lpips_loss=0.0))
    refinement: tyro.conf.OmitArgPrefixes[RefinementSettings] = field(default_factory=RefinementSettings)
