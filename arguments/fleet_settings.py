"""The settings of fleet.py. Each field: default, unit, reason; its name is its flag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.export_settings import Format

Alias = tyro.conf.arg
StageName = Literal["track", "train", "test", "export"]


@dataclass(frozen=True)
class FleetSettings:
    """Make an avatar of every subject of a list: track, train, test, export.

    Run the same command again to go on with what is unfinished.
    """

    subjects: Annotated[tyro.conf.Positional[Path], Alias(metavar="LIST")]
    """A folder of videos or data sets, or a .csv or .yaml file with one subject a row (docs/fleet.md)."""
    output: Annotated[Path, Alias(aliases=["-o"])]
    """Folder for all results; index.html in it shows them."""
    track: str = ""
    """Flags of track.py for every subject, as one text: --track "--size 256"."""
    train: str = ""
    """Flags of train.py for every subject: --train "--resolution 256 --iterations 2000"."""
    test: str = ""
    """Flags of test.py for every subject."""
    export: tuple[Format, ...] = ()
    """Formats to export every avatar to."""
    stages: tuple[StageName, ...] = ("track", "train", "test", "export")
    """Which stages to run now."""
    only: tuple[str, ...] = ()
    """Names of the subjects to do; none given: all. Leaves index.html as it is: its page is about the whole list."""
    scheduler: Literal["auto", "ray", "local"] = "auto"
    """ray: many at a time; local: one after another, without Ray; auto: ray where it is installed."""
    address: str | None = None
    """Address of a Ray cluster ("auto", HOST:PORT, ray://HOST:PORT); None = this machine alone."""
    cpus: int = 4
    """Cores for each stage (Ray; fewer where no machine has so many)."""
    gpus: float = 1.0
    """GPUs for training and testing (Ray); 0.5 lets two share one. Without a GPU, the CPU does it. Tracking and export
    use cores only, so that they run beside the training of others."""
    retries: int = 1
    """How often a stage that failed is tried again."""
    status: bool = False
    """Only write index.html and say what is done and what failed; start nothing."""
    slurm: bool = False
    """Only write scripts for a Slurm job array into OUTPUT/slurm; start nothing."""

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"--cpus: 1 or more expected, got {self.cpus}")
        if not (0 <= self.gpus <= 1 or self.gpus == int(self.gpus)):
            raise ValueError(f"--gpus: a fraction of one or a whole number expected, got {self.gpus}")
        if self.retries < 0:
            raise ValueError(f"--retries: 0 or more expected, got {self.retries}")
