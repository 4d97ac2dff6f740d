"""Demo subjects made by the program itself, small, for tests that need a data set; and what a GPU step must not do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def write_subject(folder: Path, frames: int, size: int) -> Path:
    """Generate a demo subject as a user does; returns `folder`."""
    command = [sys.executable, "-m", "data.demo", "--out", str(folder), "--frames", str(frames), "--size", str(size)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Inside, whatever makes the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
