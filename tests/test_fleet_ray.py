"""fleet.py on Ray: what is true of one subject after another holds for many at a time; workers may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from orchestration.attempt import RECORD, read_record
from tests.fleet_runs import Run, kill, wait_until

pytest.importorskip("ray")


def workers_of(run: Run, name: str) -> set[int]:
    """Ray's processes that train a subject or were killed while they did."""
    records = [read_record(path) for path in (run.out / "attempts" / name).glob(f"train-*/{RECORD}")]
    return {record["pids"][0] for record in records if record.get("pids")}


def start(run: Run) -> subprocess.Popen[str]:
    return run.start("--scheduler", "ray", "--cpus", "1", "--gpus", "0")


def test_stages_overlap_and_a_killed_worker_and_a_killed_driver_cost_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "bad", "carl"), broken=("bad",))
    run.pause("anna")
    driver = start(run)
    run.wait_for_pause("anna")
    wait_until(lambda: os.cpu_count() == 1 or run.is_complete("carl"))  # beside anna's training, which stands
    (first,) = workers_of(run, "anna")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(workers_of(run, "anna")) == 1 and first not in workers_of(run, "anna"))
    (run.steering / "paused anna").unlink(missing_ok=True)
    run.wait_for_pause("anna")  # the retry has come as far, without doing the first steps again
    assert run.ledger()["anna train 3"] == 1
    kill(driver)
    second = start(run)
    run.go_on("anna")
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 1 and "FAILED bad: track" in said and "Ray, 1 machine(s)" in said, said
    assert run.ledger() == run.expected("anna", "carl")
    assert run.is_complete("anna") and run.is_complete("carl")
