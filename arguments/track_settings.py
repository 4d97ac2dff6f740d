"""The settings of track.py. Each field: default, unit, reason; its name is its flag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

Alias = tyro.conf.arg
LAYOUTS = ("insta", "vhap", "imavatar", "insta_transforms", "codes", "nersemble", "nerface")
"""For --write: the names of scene.writers.WRITERS, told without importing these."""


@dataclass(frozen=True)
class TrackSettings:
    """Turn a video of one person into a data set for train.py."""

    video: Annotated[tyro.conf.Positional[Path], Alias(metavar="VIDEO")]
    """A video file, or a folder of images in the order of their names."""
    output: Annotated[Path, Alias(aliases=["-o"])] = Path()
    """Data set folder to write; it appears when everything is done. May be left out with --train: TRAIN/data."""
    train: Path | None = None
    """Train the avatar, too, as soon as the data set is there, into this folder: `train.py -m TRAIN`."""
    train_flags: str = ""
    """Flags for that training, in quotes, as train.py has them: "--iterations 3000 --seed 1"."""
    head: str = "open"
    """Head model to fit: open (ships with the project), flame (a file in data/FLAME), or a FLAME .pkl / head .npz."""
    start: float = 0.0
    """Seconds from the first picture: where to begin."""
    end: float | None = None
    """Seconds from the first picture: where to stop; None = at the end."""
    fps: float | None = None
    """At most so many pictures a second; None = all. For a folder of images: how many make a second (None = 25)."""
    shot: int = 0
    """Which shot of a clip with cuts: 0 = the longest, 1 = the first, ..."""
    size: int = 512
    """Side of the square pictures in pixels."""
    hr: bool = False
    """Also write the crops at the footage's own resolution into images.HQ, for train.py --use_HR True."""
    refine: bool = True
    """Refine the fit by the pictures themselves after the landmarks; False is faster."""
    intrinsics: Path | None = None
    """Calibration of the lens (JSON, OpenCV's YAML; docs/tracking.md): distortion is taken out, K stays as it says."""
    alpha: Path | None = None
    """Mattes that exist: a folder of images, or a video, with one for every picture of VIDEO; None = cut out here."""
    camera: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A further video of the same time by another camera; repeat the flag for more. All start at the same moment."""
    calibration: Path | None = None
    """Lenses and places of all cameras (JSON, docs/tracking.md); None = they are solved for."""
    write: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also write the data set, into a folder of it, in the layout of another program (docs/data.md), such as vhap or
    imavatar (flame_params.json); repeat the flag for more."""
    face_model: Path | None = None
    """MediaPipe's face_landmarker.task; None = data/mediapipe, downloaded once."""
    matting_model: Path | None = None
    """Network that cuts out the person (.tflite, .onnx); None = data/mediapipe's if put there, else GrabCut without."""
    parsing_model: Path | None = None
    """Face parsing network (.tflite or .onnx) that helps to cut off the clothes; None = the fitted head alone does."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
    resume: bool = False
    """Continue a run that was interrupted, with the same flags."""
    overwrite: bool = False
    """Replace the data set that an earlier run wrote to --output."""

    def __post_init__(self) -> None:
        if self.train is None and self.train_flags:
            raise ValueError(f"--train_flags {self.train_flags!r}: of no use without --train OUT")
        if self.output == Path():
            if self.train is None:
                raise ValueError("--output: the folder of the data set expected (or --train OUT), got neither")
            object.__setattr__(self, "output", self.train / "data")
        if not 64 <= self.size <= 4096:
            raise ValueError(f"--size: 64 to 4096 pixels expected, got {self.size}")
        if self.intrinsics is not None and (self.camera or self.calibration is not None):
            raise ValueError("--intrinsics is for one camera; give --calibration for those of --camera")
        if self.alpha is not None and self.camera:
            raise ValueError("--alpha is for one camera; videos of several may have alpha channels of their own")
        if self.calibration is not None and not self.camera:
            raise ValueError("--calibration is for several cameras (--camera); give --intrinsics for one")
        names = [path.stem for path in (self.video, *self.camera)]
        if len(set(names)) < len(names):
            raise ValueError(f"--camera: cameras are named after their files, whose names must differ; got "
                             f"{', '.join(names)}")
