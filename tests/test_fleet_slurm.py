"""The Slurm scripts, run by a stand-in for sbatch that executes every task of an array as Slurm would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from arguments.fleet_settings import FleetSettings
from orchestration.slurm import LONGEST_ARRAY, write_scripts
from orchestration.subjects import read_subjects
from tests.fleet_runs import PROGRAMS, Run

SBATCH = r"""#!/bin/bash
# Runs all tasks of an array at once, after checking what sbatch would refuse; prints a job number.
script="${@: -1}"
echo "$@" >> "$FLEET_TEST/submitted.txt"
logs=$(sed -n 's/^#SBATCH --output=//p' "$script")
[ -d "$(dirname "$logs")" ] || exit 3
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "${last:-0}"); do
  SLURM_ARRAY_TASK_ID=$task bash "$script" >> "$FLEET_TEST/output.txt" 2>&1
  code=$?
  echo "$(basename "$script") $task: $code" >> "$FLEET_TEST/codes.txt"
done
echo 42
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Videos, a stand-in for sbatch on the PATH, and fleet.py beside the stand-ins for the programs."""
    run = Run(tmp_path, ("anna", "bad", "carl"), broken=("bad",))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    return run


def submit(run: Run, options: str = "") -> str:
    environment = {**os.environ, "FLEET_TEST": str(run.steering), "PATH": f"{run.folder / 'bin'}:{os.environ['PATH']}",
                   "TRAIN_OPTIONS": options}
    command = ["bash", str(run.out / "slurm" / "submit.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (run.steering / "output.txt").read_text()


def test_arrays_do_all_that_the_driver_does(run: Run) -> None:
    code, said = run.call("--slurm", "--train", "--iterations 5", "--cpus", "2", "--retries", "0")
    assert code == 0 and "start it with: bash" in said and not run.ledger()
    said = submit(run, "--partition=gpu")
    assert run.ledger() == run.expected("anna", "carl"), said
    assert run.is_complete("anna") and run.is_complete("carl")
    assert (run.steering / "codes.txt").read_text().splitlines() == [
        "track.sbatch 0: 0", "track.sbatch 1: 0", "track.sbatch 2: 0",
        "train.sbatch 0: 0", "train.sbatch 1: 1", "train.sbatch 2: 0", "index.sbatch 0: 1"]
    submitted = (run.steering / "submitted.txt").read_text().splitlines()
    assert "--dependency=aftercorr:42 --kill-on-invalid-dep=yes --partition=gpu" in submitted[1]
    assert "--dependency=afterany:42" in submitted[2]
    page = (run.out / "index.html").read_text()
    assert "2 of 3 avatars finished, 1 failed" in page and "neither video nor image" in page
    train = (run.out / "slurm" / "train.sbatch").read_text()
    assert "#SBATCH --gres=gpu:1\n" in train and "#SBATCH --cpus-per-task=2\n" in train


def test_more_subjects_than_an_array_may_have_share_jobs(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    (tmp_path / "data" / "checkpoint").mkdir(parents=True)
    table.write_text("source,name\n" + "".join(f"data,s{number}\n" for number in range(2 * LONGEST_ARRAY + 1)))
    settings = FleetSettings(table, tmp_path / "out")
    subjects = read_subjects(settings)
    submit_script = write_scripts(tmp_path / "out", subjects, settings, PROGRAMS, [str(table), "-o", "out", "--slurm"])
    lines = (submit_script.parent / "subjects.txt").read_text().splitlines()
    assert len(lines) <= LONGEST_ARRAY and lines[0] == "s0 s1 s2"
    assert " ".join(lines).split() == [subject.name for subject in subjects]
    text = (submit_script.parent / "train.sbatch").read_text()
    assert f"#SBATCH --array=0-{len(lines) - 1}\n" in text and "#SBATCH --time=80\n" in text
    assert "--slurm" not in text
    assert not (submit_script.parent / "track.sbatch").exists(), "data sets are tracked already"
    assert "aftercorr" not in submit_script.read_text()
