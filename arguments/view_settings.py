"""The settings of view.py. Each field: default, unit, reason; its name is its flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from arguments.stream_settings import StreamSettings


@dataclass(frozen=True)
class ViewSettings:
    """Look at an avatar in the browser and play with it."""

    model_path: Annotated[Path, tyro.conf.Positional]
    """Output folder of the training run."""
    iteration: int = -1
    """Checkpoint to show; -1 = the newest."""
    watch: bool = False
    """Follow a run that is still training: show every new checkpoint as it comes."""
    source_path: Annotated[Path | None, tyro.conf.arg(aliases=["-s"])] = None
    """Data set for the comparison with the ground truth, if it is no longer where the run read it. A model of the
    reference plays the codes and cameras of this one."""
    stream: tyro.conf.OmitArgPrefixes[StreamSettings] = field(default_factory=StreamSettings)
    host: str = "127.0.0.1"
    """Address to listen on: this machine alone, unless you say 0.0.0.0 (then anyone who reaches it can look)."""
    allow_origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Address of your own proxy or port forward, like https://gpu.example.org, as the browser shows it; may be given
    several times. The viewer prints it when it refuses a page."""
    port: int = 8080
    """Port to listen on; 0 takes any free one."""
    fps: float = 25.0
    """Frames of the clip per second when it plays."""
    size: int = 0
    """Longest side of pictures at rest, pixels; 0 = 1024 on a CPU, 2560 on a GPU. Smaller while something moves."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
