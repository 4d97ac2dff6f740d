"""What a result was made with: machine, software, version of this project."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe_environment() -> dict[str, str]:
    """Facts worth keeping beside numbers, name -> text; what cannot be found out is left out."""
    import torch  # takes seconds; programs that only read and write reports do without it

    facts = {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
        facts["CUDA"] = str(torch.version.cuda)
    commit = _commit()
    return facts | ({"commit": commit} if commit else {})


def _processor() -> str:
    """The model's name where Linux tells it, else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Git commit of this project's checkout, marked when files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=root, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if (root / ".git").exists() else ""
