"""fleet.py against everything that happens to long runs: kills, crashes, broken videos, full disks, a second driver.

The programs are stand-ins that keep a ledger of every step, so that "nothing lost, nothing done twice" is an equation.
"""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest

from orchestration.stages import STAGES, Place
from tests.fleet_runs import Run, kill, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes that end with their parent: Linux only")


def test_every_subject_comes_to_its_end_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "ben"))
    code, said = run.call("--export", "ply", "--track", "--size 128")
    expected = run.expected("anna", "ben")
    for name in ("anna", "ben"):
        del expected[f"{name} track"]
        expected.update([f"{name} track 128", f"{name} export ply"])
    assert (code, run.ledger()) == (0, expected), said
    assert run.is_complete("anna") and run.is_complete("ben")
    assert (run.out / "exports" / "anna" / "anna.ply").is_file()
    assert "2 of 2 finished" in said
    page = (run.out / "index.html").read_text()
    assert "30.50 dB" in page and "Tracking: good" in page and "http-equiv" not in page
    shutil.rmtree(run.out / "data" / "anna")  # an avatar does without its data set, so that it may be deleted
    assert run.call("--export", "ply", "--track", "--size 128")[0] == 0
    assert run.ledger() == expected


def test_a_broken_video_is_reported_and_harms_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "bad", "carl"), broken=("bad",))
    code, said = run.call()
    assert code == 1 and "FAILED bad: track: track.py: " in said
    assert run.ledger() == run.expected("anna", "carl")
    page = (run.out / "index.html").read_text()
    assert "failed: track" in page and "neither video nor image could be read" in page
    assert len(list((run.out / "logs" / "bad").glob("*.failed.json"))) == 2, "tried once more by default"
    (run.videos / "bad.mp4").write_bytes(b"mended")
    assert run.call()[0] == 0, "the same command tries again what failed"
    assert run.ledger() == run.expected("anna", "bad", "carl")


def test_a_program_that_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna",))
    run.crash_once("anna")
    code, said = run.call()
    assert code == 0 and "SIGKILL" in said and "is tried again" in said
    assert run.ledger() == run.expected("anna")
    assert run.is_complete("anna")


def test_after_kill_9_of_the_driver_the_next_one_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "ben"))
    run.pause("anna")
    driver = run.start("--scheduler", "local")
    run.wait_for_pause("anna")
    kill(driver)
    run.go_on("anna")
    assert run.call()[0] == 0
    assert run.ledger() == run.expected("anna", "ben")
    assert run.is_complete("anna") and run.is_complete("ben")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_asked_to_stop_ends_its_program_first(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path, ("anna",))
    run.pause("anna")
    driver = run.start("--scheduler", "local")
    run.wait_for_pause("anna")
    driver.send_signal(number)
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode != 0 and "Traceback" not in said
    assert "train.py: stopped" in next((run.out / "logs" / "anna").glob("train-*.txt")).read_text()
    run.go_on("anna")
    assert run.call()[0] == 0
    assert run.ledger() == run.expected("anna")


def test_two_drivers_share_the_work_and_do_nothing_twice(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "ben", "carl", "dora"))
    run.pause("anna")
    first = run.start("--scheduler", "local")
    run.wait_for_pause("anna")
    second = run.start("--scheduler", "local")
    wait_until(lambda: all(run.is_complete(name) for name in ("ben", "carl", "dora")))
    run.go_on("anna")
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "anna: train is being done by" in said[1]
    assert run.ledger() == run.expected("anna", "ben", "carl", "dora")


def small_disk() -> None:
    """In a new process: files of more than 6,000 bytes cannot be written; the stand-in's checkpoints have 10,000."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_a_worker_with_a_full_disk_loses_nothing_and_another_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "ben"))
    full = run.start("--scheduler", "local", before=small_disk)
    said = full.communicate(timeout=60)[0]
    assert full.returncode == 1 and "File too large" in said and "Traceback" not in said
    assert "WARNING" in said and "index.html: could not be written" in said
    assert run.ledger() == {"anna track": 1, "ben track": 1}
    assert run.call()[0] == 0
    assert run.ledger() == run.expected("anna", "ben")
    assert run.is_complete("anna") and run.is_complete("ben")


def test_finished_stages_with_other_flags_are_refused_before_anything_starts(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna",))
    assert run.call("--train", "--iterations 10")[0] == 0
    before = run.ledger()
    (run.videos / "ben.mp4").write_bytes(b"video")
    code, said = run.call("--train", "--iterations 20")
    assert code == 1 and "anna: train: iterations 10 then, 20 now" in said and "another --output" in said
    assert run.ledger() == before


def test_stages_can_be_run_apart_as_job_arrays_do(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna", "bad"), broken=("bad",))
    assert run.call("--stages", "track", "--only", "anna")[0] == 0
    assert run.ledger() == {"anna track": 1}
    assert not (run.out / "index.html").exists(), "a page about a part would replace that about the whole"
    code, said = run.call("--stages", "train", "test")
    assert code == 1 and "FAILED bad: train: track has to come first" in said
    assert run.ledger() == run.expected("anna")
    code, said = run.call("--status")
    assert code == 0 and "1 of 2 finished. Open" in said, "nothing of the other one was ever tried"


def test_status_tells_of_what_another_process_does(tmp_path: Path) -> None:
    run = Run(tmp_path, ("anna",))
    run.pause("anna")
    driver = run.start("--scheduler", "local")
    run.wait_for_pause("anna")
    assert run.call("--status")[0] == 0
    assert "running: train" in (run.out / "index.html").read_text()
    run.go_on("anna")
    assert driver.wait(60) == 0
    assert Place(run.out, "anna").record(STAGES["train"]) is not None
