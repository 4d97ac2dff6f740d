"""The same list as Slurm job arrays: scripts that need this checkout, its .venv and the shared folders, and no Ray."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from arguments.fleet_settings import FleetSettings
from orchestration.subjects import Subject
from utils.atomic import write_text

LONGEST_ARRAY = 1000  # Slurm's default of MaxArraySize is 1001: beyond it, a job takes several subjects
MINUTES = {"track": 30, "train": 60}  # of a job with one subject, generous; sbatch's own --time overrides it
FURTHER = 10  # minutes for each further subject of a job
OWN_FLAGS = {"slurm", "scheduler", "stages", "only", "status", "address"}  # the scripts say these anew

JOB = """#!/bin/bash
#SBATCH --job-name=fleet-{kind}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cores}
#SBATCH --time={minutes}{gpu}
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
#SBATCH --output={logs}/{kind}-%A_%a.txt
# Line SLURM_ARRAY_TASK_ID of subjects.txt names the subjects of this job. TERM, 90 s before the time is over, lets a
# training write a checkpoint, from which the next run goes on.
cd {here} || exit 1
export OMP_NUM_THREADS={cores}
names=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {names})
trap 'kill -TERM $fleet' TERM
{call} --scheduler local --stages {stages} --only $names &
fleet=$!
wait $fleet
code=$?
if kill -0 $fleet 2>/dev/null; then wait $fleet; code=$?; fi  # the first wait ends with the signal
exit {code}
"""
ALL_THE_SAME = "0  # the log tells what failed; the training of the job's other subjects must begin all the same"
INDEX = """#!/bin/bash
#SBATCH --job-name=fleet-index
#SBATCH --cpus-per-task=1
#SBATCH --time=30
#SBATCH --output={logs}/index-%j.txt
cd {here} || exit 1
{call} --status True
"""
SUBMIT = """#!/bin/bash
# Submits everything; run it again to go on with what is unfinished. Options of your cluster:
#   TRACK_OPTIONS="--partition=cpu" TRAIN_OPTIONS="--partition=gpu --account=me" bash {submit}
set -euo pipefail
{track}train=$(sbatch --parsable {after}${{TRAIN_OPTIONS:-}} {folder}/train.sbatch)
sbatch --dependency=afterany:"${{train%%;*}}" ${{TRACK_OPTIONS:-}} {folder}/index.sbatch
"""
SUBMIT_TRACK = """track=$(sbatch --parsable ${{TRACK_OPTIONS:-}} {folder}/track.sbatch)
"""


def write_scripts(
    out: Path, subjects: Sequence[Subject], settings: FleetSettings, programs: Path, arguments: Sequence[str],
) -> Path:
    """Write submit.sh, the scripts that it submits and subjects.txt into `out`/slurm; returns the way to submit.sh.

    programs: folder of fleet.py. arguments: the command line, from which each job's own follows.
    Raises utils.atomic.WriteError, or ValueError for paths with a line break.
    """
    folder = out / "slurm"
    if any("\n" in str(path) for path in (folder, programs, Path.cwd())):
        raise ValueError(f"{folder}: --slurm: paths with line breaks cannot be written into scripts")
    per_job = -(-len(subjects) // LONGEST_ARRAY)
    further = FURTHER * (per_job - 1)
    names = [subject.name for subject in subjects]
    lines = [" ".join(names[start:start + per_job]) for start in range(0, len(names), per_job)]
    quote = shlex.quote
    call = shlex.join([sys.executable, str(programs / "fleet.py"), *_without_own(arguments)])
    common = {"here": quote(str(Path.cwd())), "names": quote(str(folder / "subjects.txt")), "logs": folder / "logs",
              "cores": settings.cpus, "call": call, "last": len(lines) - 1}
    gpu = f"\n#SBATCH --gres=gpu:{max(1, int(settings.gpus))}" if settings.gpus else ""
    tracks = any(subject.is_video for subject in subjects)
    scripts = {
        "track.sbatch": JOB.format(kind="track", minutes=MINUTES["track"] + further, gpu="", stages="track",
                                   code=ALL_THE_SAME, **common),
        "train.sbatch": JOB.format(kind="train", minutes=MINUTES["train"] + further, gpu=gpu,
                                   stages="train test export", code="$code", **common),
        "index.sbatch": INDEX.format(**common),
        "subjects.txt": "".join(f"{line}\n" for line in lines),
        "submit.sh": SUBMIT.format(
            folder=quote(str(folder)), submit=quote(str(folder / "submit.sh")),
            track=SUBMIT_TRACK.format(folder=quote(str(folder))) if tracks else "",
            after='--dependency=aftercorr:"${track%%;*}" --kill-on-invalid-dep=yes ' if tracks else ""),
    }
    if not tracks:
        del scripts["track.sbatch"]
    for name, text in scripts.items():
        write_text(folder / name, text)
    (folder / "logs").mkdir(exist_ok=True)  # Slurm makes no folders
    return folder / "submit.sh"


def _without_own(arguments: Sequence[str]) -> list[str]:
    """The command line without flags that the scripts give themselves, and their values."""
    kept: list[str] = []
    dropping = False
    for argument in arguments:
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0].replace("-", "_")
            dropping = argument.startswith("--") and name in OWN_FLAGS
        if not dropping:
            kept.append(os.fspath(argument))
    return kept
