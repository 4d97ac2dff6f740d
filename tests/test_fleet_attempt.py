"""Attempts at a stage: the first rename wins, a dead one is gone on from, no order of events leaves half a result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestration import attempt as module
from orchestration.attempt import HEARTBEAT, RECORD, Attempt, LostError, clear, copy_tree, discard, read_record
from orchestration.stages import STAGES, Place
from orchestration.worker import environment_of
from utils.atomic import write_json

TRAIN = STAGES["train"]
WISH: dict[str, Any] = {"flags": {}}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "out", "anna")


def begun(place: Place, content: str = "", machine: str = "") -> Attempt:
    """An attempt that has written something; machine: where it seems to run, if not here."""
    attempt = Attempt(place, TRAIN, WISH)
    (attempt.product / "checkpoints" / "iteration_1").mkdir(parents=True)
    (attempt.product / "checkpoints" / "iteration_1" / "avatar.safetensors").write_text(content)
    (attempt.product / "training.csv").write_text(content)
    owner = {"machine": machine, "pids": [1]} if machine else {"pids": [dead_process()]}
    write_json(attempt.folder / RECORD, {**read_record(attempt.folder / RECORD), **owner})
    return attempt


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def age(attempt: Attempt, seconds: float) -> None:
    """Let the last heartbeat be that long ago."""
    now = (attempt.folder / HEARTBEAT).stat().st_mtime
    os.utime(attempt.folder / HEARTBEAT, (now - seconds, now - seconds))


def test_the_first_of_two_wins_and_the_second_changes_nothing(place: Place) -> None:
    first, second = begun(place, "first"), begun(place, "second")
    assert second.publish({"by": 2})
    assert not first.publish({"by": 1})
    first.close()
    second.close()
    assert (place.product(TRAIN) / "training.csv").read_text() == "second"
    assert read_record(place.product(TRAIN) / TRAIN.record) == {"by": 2}
    assert not place.attempts.exists()


def test_what_was_taken_away_cannot_be_published_even_when_a_writer_made_its_folder_anew(place: Place) -> None:
    attempt = begun(place)
    discard(attempt.folder)
    write_json(attempt.product / "config.json", {})  # as a program that goes on does
    with pytest.raises(LostError, match="was taken away"):
        attempt.publish({})
    assert not place.product(TRAIN).exists()


def test_a_heartbeat_on_another_machine_is_respected_until_it_is_old(place: Place) -> None:
    other = begun(place, machine="elsewhere")
    mine = Attempt(place, TRAIN, WISH)
    age(other, module.LEASE - 20)
    assert mine.busy_elsewhere() is not None
    assert not mine.inherit()
    age(other, module.LEASE + 20)
    assert mine.busy_elsewhere() is None
    assert mine.inherit()
    assert not other.folder.exists()


def test_a_dead_process_of_this_machine_is_gone_on_from_at_once(place: Place) -> None:
    dead = begun(place, "content")
    mine = Attempt(place, TRAIN, WISH)
    assert mine.busy_elsewhere() is None
    assert mine.inherit()
    assert (mine.product / "training.csv").read_text() == "content"
    assert not dead.folder.exists()


def test_what_was_wanted_otherwise_is_not_gone_on_from(place: Place) -> None:
    begun(place)
    mine = Attempt(place, TRAIN, {"flags": {"iterations": ["5"]}})
    assert not mine.inherit() and not mine.product.exists()


def test_after_two_failures_on_the_same_content_the_third_starts_anew(place: Place) -> None:
    begun(place).fail("first")
    second = Attempt(place, TRAIN, WISH)
    assert second.inherit(), "a failure may have been the machine's"
    second.fail("second")
    third = Attempt(place, TRAIN, WISH)
    assert not third.inherit(), "or what was inherited is the cause"
    assert len(list(place.logs.glob("*.failed.json"))) == 2


def test_checkpoints_are_shared_and_what_grows_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "checkpoints" / "run"  # a name on the way must not turn copies into links
    inner = source / "checkpoints" / "iteration_1"
    inner.mkdir(parents=True)
    (inner / "avatar.safetensors").write_text("avatar")
    (source / "training.csv").write_text("1\n")
    (source / ".x.0.tmp").write_text("half of it")
    copy_tree(source, tmp_path / "copy")
    with open(tmp_path / "copy" / "training.csv", "a") as file:
        file.write("2\n")
    assert (source / "training.csv").read_text() == "1\n"
    copied = tmp_path / "copy" / "checkpoints" / "iteration_1" / "avatar.safetensors"
    assert copied.samefile(inner / "avatar.safetensors")
    assert not (tmp_path / "copy" / ".x.0.tmp").exists()


def test_where_a_disk_has_no_links_checkpoints_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    inner = tmp_path / "run" / "checkpoints" / "iteration_1"
    inner.mkdir(parents=True)
    (inner / "avatar.safetensors").write_text("avatar")
    copy_tree(tmp_path / "run", tmp_path / "copy")
    assert (tmp_path / "copy" / "checkpoints" / "iteration_1" / "avatar.safetensors").read_text() == "avatar"


def test_clearing_removes_what_nobody_needs_and_leaves_what_may_be_gone_on_from(place: Place) -> None:
    dead = begun(place)
    clear(place)
    assert dead.folder.exists()
    winner = begun(place)
    winner.publish({})
    clear(place)
    assert not place.attempts.exists()


def test_a_program_sees_the_gpus_and_cores_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    assert [environment_of(["1"], 4)[name] for name in names] == ["1", "4"]
    assert [environment_of([], 4)[name] for name in names] == ["", "4"], "a stage on cores must not touch a GPU"
    assert [environment_of(None, 0)[name] for name in names] == ["0,1", "64"], "one after another: as the user has it"
