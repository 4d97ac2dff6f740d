"""benchmarks/quality.py: its figures are test.py's, and its seconds count from the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_scores_are_those_of_test_py_and_time_runs_from_the_command(tmp_path: Path) -> None:
    data, kept, rows, nothing = (tmp_path / name for name in ("data", "run", "rows.csv", "no_weights"))
    nothing.mkdir()
    run("-m", "data.demo", "--out", data, "--frames", 6, "--size", 32)
    start = time.time()
    run("-m", "benchmarks.quality", "-s", data, "--name", "tiny", "--iterations", 4, "--steps", 2, "--keep", kept,
        "--results", rows, "--lpips_weights", nothing, "--test_frames", 2, "--batch_size", 2, "--device", "cpu",
        "--num_face_gaussians", 200, "--num_teeth_gaussians", 10)
    whole = time.time() - start
    run("test.py", "-m", kept, "--lpips_weights", nothing, "--video", "False", "--report", "False", "--device", "cpu")
    metrics = json.loads((kept / "metrics.json").read_text())["test"]
    with open(rows) as file:
        table = list(csv.DictReader(file))
    times = [float(row["value"]) for row in table if row["name"] == "time_to_quality"]
    assert len(times) == 2 and 0 < times[0] < times[1] < whole
    found = {row["name"]: float(row["value"]) for row in table}
    # Rows keep four digits.
    assert found["quality_psnr"] == pytest.approx(metrics["psnr"], rel=1e-3)
    assert found["quality_ssim"] == pytest.approx(metrics["ssim"], rel=1e-3)
    assert found["quality_head_psnr"] == pytest.approx(metrics["head"]["psnr"], rel=1e-3)
