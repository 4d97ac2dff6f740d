"""The stages of a subject: which program each runs, and what it leaves below the output folder.

    OUT/data/NAME      track    the data set that track.py made of a video
    OUT/trained/NAME   train    the run of train.py; goes into avatars/ when it has been tested
    OUT/avatars/NAME   test     the run with scores, pictures, report.html
    OUT/exports/NAME   export   the files of export.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arguments import TestSettings, TrainSettings
from arguments.export_settings import ExportSettings
from arguments.track_settings import TrackSettings


@dataclass(frozen=True)
class Stage:
    """One stage. program, settings: the entry point and its flags. product: folder below the output folder.

    sign: a file that its complete product has. resumes: whether the program can go on where another attempt stopped.
    reserved: flags that fleet.py sets. example: the words that the program needs at least.
    """

    name: str
    program: str
    settings: type
    product: str
    sign: str
    resumes: bool
    reserved: frozenset[str]
    example: tuple[str, ...]

    @property
    def record(self) -> str:
        """Name of the file in the product that says how it was made."""
        return f"fleet.{self.name}.json"


STAGES = {stage.name: stage for stage in (
    Stage("track", "track.py", TrackSettings, "data", "tracking.json", True,
          frozenset({"video", "output", "resume", "overwrite"}), ("VIDEO", "--output", "DATA")),
    Stage("train", "train.py", TrainSettings, "trained", "config.json", True,
          frozenset({"source_path", "model_path", "resume", "check_only"}),
          ("--source_path", "DATA", "--model_path", "OUT")),
    Stage("test", "test.py", TestSettings, "avatars", "metrics.json", False,
          frozenset({"model_path", "source_path", "without_blendshapes"}), ("--model_path", "OUT")),
    Stage("export", "export.py", ExportSettings, "exports", "", False,
          frozenset({"model_path", "format", "output", "source_path", "frames"}), ("OUT",)),
)}

EXPORT_ENDINGS = {"ply": ".ply", "splat": ".splat", "spz": ".spz", "gltf": ".glb", "avatar": ".safetensors",
                  "gbav": ".gbav", "npy": "_npy", "web": "_web"}  # the last two are folders


@dataclass(frozen=True)
class Place:
    """Where everything about one subject lies below the output folder `out` (absolute)."""

    out: Path
    name: str

    def product(self, stage: Stage) -> Path:
        return self.out / stage.product / self.name

    @property
    def attempts(self) -> Path:
        """Folder of the attempts that run, or were killed."""
        return self.out / "attempts" / self.name

    @property
    def logs(self) -> Path:
        """Folder of what each attempt printed, and of why it failed."""
        return self.out / "logs" / self.name

    def record(self, stage: Stage) -> Path | None:
        """The record of a finished stage, None when it is not finished. Once tested, a run lies with the avatars."""
        homes = [self.product(stage)] + ([self.product(STAGES["test"])] if stage.name == "train" else [])
        return next((home / stage.record for home in homes if (home / stage.record).is_file()), None)


def data_of(place: Place, source: Path, is_video: bool) -> Path:
    """The data set that the subject trains on."""
    return place.product(STAGES["track"]) if is_video else source
