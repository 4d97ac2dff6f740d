"""Rows of `results.csv`: one figure each, newest last."""

from __future__ import annotations

import csv
import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results.csv"
COLUMNS = ("date", "commit", "gpu", "name", "setting", "value", "unit")


def gpu_name() -> str:
    """The device that is measured."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def commit() -> str:
    """The commit that is measured, "+" after it where files differ from it; "unknown" outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=folder, capture_output=True, text=True,
                             check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


class Results:
    """Prints figures and appends them to a file (None: prints only). `of`: the commit, found out where not given."""

    def __init__(self, path: Path | None, of: str | None = None) -> None:
        self._path, self._commit = path, of or commit()

    def add(self, name: str, setting: str, value: float, unit: str) -> None:
        """One figure."""
        print(f"{name:22} {setting:72} {value:10.4g} {unit}", flush=True)
        if self._path is None:
            return
        new = not self._path.exists()
        with open(self._path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
            writer.writerow((date, self._commit, gpu_name(), name, setting, f"{value:.4g}", unit))


def begin(path: Path) -> None:
    """Write the columns of a file that is not there yet: before several processes append to it."""
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")


def append_rows(source: Path, path: Path) -> int:
    """Append the rows of `source`, a file of this kind, to those of `path`; how many. ValueError for another file."""
    lines = source.read_text().splitlines(keepends=True)
    head = lines[0].strip() if lines else "nothing"
    if head != ",".join(COLUMNS):
        raise ValueError(f"{source}: wanted rows under {','.join(COLUMNS)}, got {head}")
    with open(path, "a", newline="") as file:
        file.write("".join(lines[1:]))
    return len(lines) - 1


class KernelTime(NamedTuple):
    """Mean time and launches, in one step, of the kernels or copies of one name."""

    name: str
    microseconds: float
    launches: float


def kernel_times(step: Callable[[], object], repeats: int) -> list[KernelTime]:
    """What a step keeps a GPU busy with, longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            step()
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total]
    times = [KernelTime(e.key, e.self_device_time_total / repeats, e.count / repeats) for e in events]
    return sorted(times, key=lambda kernel: -kernel.microseconds)


def print_kernels(step: Callable[[], object], repeats: int, most: int = 40) -> None:
    """Mean time and launches of each kernel and copy of a step on a GPU, and their sum."""
    kernels = kernel_times(step, repeats)
    busy = sum(kernel.microseconds for kernel in kernels)
    print(f"  busy {busy:.1f} us in {sum(kernel.launches for kernel in kernels):.1f} launches")
    for name, each, launches in kernels[:most]:
        print(f"  {each:9.1f} us {100 * each / busy:5.1f} %  {launches:5.1f} launches  {name[:80]}")
