"""Scores need no PyAV: it is there for the video alone, and machines that only compute often lack it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.modules["av"] = None  # importing it fails
import evaluation, benchmarks.quality
try:
    from utils.video import write_video
except ImportError:
    print("no video")
"""


def test_evaluation_imports_without_pyav() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=Path(__file__).resolve().parents[1], text=True,
                         capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "no video"
