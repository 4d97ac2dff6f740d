"""Demo subjects made by the program itself, small, for tests that need a data set; and what a GPU step must not do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class ShapesAreKnown(TorchDispatchMode):
    """Inside, operations raise whose result has as many rows as values decide: on a GPU the host would wait for them.

    Part of what nothing_waits finds on a GPU, found on a CPU. (Numbers read back are not looked for: the checks of
    arguments that only the CPU path makes read some.)
    """

    WAITING = ("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount",
               "aten::repeat_interleave.Tensor")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func.name().startswith("aten::index") and isinstance(args[1], (list, tuple)) else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        if by_mask or func.name() in self.WAITING:
            raise RuntimeError(f"on a GPU the host would wait for {func.name()}")
        return func(*args, **(kwargs or {}))
