"""Damaged and malicious files: each gives values or an error that names it, and nothing happens besides."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="forks processes and limits them")
def test_readers_survive_attacks_and_mutations() -> None:
    command = [sys.executable, "-m", "benchmarks.hostile", "--mutations", "270"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"(\d+) files: \{(.*)\}", done.stdout)
    assert len(counts) == 2 and int(counts[1][0]) == 270
    for _, kinds in counts:
        assert set(re.findall(r"'(\w+)'", kinds)) <= {"clear", "accepted"}
