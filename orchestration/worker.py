"""One stage of one subject, done by whichever process the scheduler gives it to."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from orchestration.attempt import BEAT, Attempt, LostError, copy_tree, now
from orchestration.facts import facts_of
from orchestration.flags import arguments_of
from orchestration.stages import EXPORT_ENDINGS, STAGES, Place, Stage, data_of
from orchestration.subjects import Subject

STOP_SECONDS = 60.0  # a training that is asked to stop writes a checkpoint first
LONGEST_ERROR = 1500  # characters of a log that a page shows
Tick = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """What a scheduler hands to a worker. programs: folder with train.py and the others."""

    out: Path
    subject: Subject
    stage: str
    programs: Path

    @property
    def place(self) -> Place:
        return Place(self.out, self.subject.name)


@dataclass(frozen=True)
class Outcome:
    """What came of a task. done: also when another worker did it. busy: another one is at it (`text` says where)."""

    state: Literal["done", "failed", "busy"]
    text: str = ""
    seconds: float = 0.0


def perform(task: Task, gpus: Sequence[str] | None = None, cores: int = 0, tick: Tick | None = None) -> Outcome:
    """Do the task, unless its result is there or somebody is at it.

    gpus: which ones the program may see; None: all. cores: how many threads; 0: as the environment says. tick: called
    every few seconds. The result appears by one rename; whatever is raised in here (a request to stop) first ends the
    program, and leaves what it saved for the next attempt.
    """
    stage, begin = STAGES[task.stage], time.monotonic()
    if task.place.record(stage) is not None:
        return Outcome("done")
    try:
        attempt = Attempt(task.place, stage, task.subject.wish(stage.name))
    except OSError as error:
        return Outcome("failed", str(error), time.monotonic() - begin)
    try:
        busy = attempt.busy_elsewhere()
        if busy is not None:
            attempt.close()
            return Outcome("busy", busy)
        outcome = _carry_out(task, stage, attempt, environment_of(gpus, cores), tick or (lambda: None))
    except LostError:
        return Outcome("busy", "whoever took the attempt for dead")
    except OSError as error:
        outcome = _failed(attempt, str(error))
    except Exception as error:  # our own mistake must not take the other subjects along
        outcome = _failed(attempt, f"{type(error).__name__}: {error}")
    except BaseException:
        attempt.leave()
        raise
    return replace(outcome, seconds=time.monotonic() - begin)


def _carry_out(task: Task, stage: Stage, attempt: Attempt, environment: dict[str, str], tick: Tick) -> Outcome:
    begin = time.monotonic()
    missing = _missing(task)
    if missing is not None:
        attempt.close()  # without a record: that of the stage before says more
        return Outcome("failed", f"{missing} has to come first, and is not finished")
    resume = attempt.inherit()
    if stage.name == "test":
        try:
            copy_tree(task.place.product(STAGES["train"]), attempt.product)
        except OSError:
            if task.place.record(stage) is None:
                raise
    if task.place.record(stage) is not None:  # it appeared since we looked
        attempt.close()
        return Outcome("done")
    for command in commands_of(task, stage, attempt.product, resume):
        code = _call(command, attempt, environment, tick)
        if code != 0:
            return _failed(attempt, _last_words(attempt.log, code))
    if not (attempt.product / stage.sign).exists():
        return _failed(attempt, f"{stage.program} left no {stage.sign or 'files'}")
    record = {**task.subject.wish(stage.name), "seconds": round(time.monotonic() - begin, 1), "finished": now(),
              "host": socket.gethostname(), "resumed": resume, **facts_of(stage.name, attempt.product)}
    attempt.publish(record)
    if stage.name == "test":
        attempt.take_away(task.place.product(STAGES["train"]))  # all of it is in the avatar now
    attempt.close()
    return Outcome("done")


def _missing(task: Task) -> str | None:
    """The stage before this one, where it is not finished."""
    stages = task.subject.stages
    before = stages[:stages.index(task.stage)][-1:]
    return next((name for name in before if task.place.record(STAGES[name]) is None), None)


def commands_of(task: Task, stage: Stage, product: Path, resume: bool) -> list[list[str]]:
    """The command lines of a stage that writes to `product`; none when an earlier attempt got as far as that."""
    subject, place = task.subject, task.place
    flags = arguments_of(subject.flags[stage.name])
    again = ["--resume", "True"] if resume else []
    avatar = str(place.product(STAGES["test"]))
    lines: list[list[str]]
    if stage.name == "track":
        lines = [] if (product / stage.sign).is_file() else [[str(subject.source), "--output", str(product), *again]]
    elif stage.name == "train":
        data = data_of(place, subject.source, subject.is_video)
        lines = [["--source_path", str(data), "--model_path", str(product), *again]]
    elif stage.name == "test":
        lines = [["--model_path", str(product)]]
    else:
        product.mkdir(parents=True, exist_ok=True)
        lines = [[avatar, "--format", name, "--output", str(product / f"{subject.name}{EXPORT_ENDINGS[name]}")]
                 for name in subject.formats]
    return [[sys.executable, str(task.programs / stage.program), *line, *flags] for line in lines]


def environment_of(gpus: Sequence[str] | None, cores: int) -> dict[str, str]:
    """Of a program that may use these GPUs (None: all that this process sees) and so many threads (0: as it is)."""
    environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if cores:
        environment["OMP_NUM_THREADS"] = str(cores)
    return environment


def _call(command: list[str], attempt: Attempt, environment: dict[str, str], tick: Tick) -> int:
    """Run a program to its end; its exit code. What is raised meanwhile ends the program first."""
    with open(attempt.log, "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env=environment, start_new_session=True, preexec_fn=end_with_parent)
    try:
        attempt.watch(process.pid)
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(BEAT)
            attempt.beat()
            tick()
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, on which every program saves what it can; SIGKILL to its whole group when that takes too long."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: the new process must not import; Linux only
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In the new process: when the worker is killed, the system sends SIGTERM, so that no program is left behind."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _failed(attempt: Attempt, error: str) -> Outcome:
    try:
        attempt.fail(error)
    except OSError as refused:  # the disk is full: the driver is told all the same
        error = f"{error}\n({refused})"
        attempt.leave()
    return Outcome("failed", error)


def _last_words(log: Path, code: int) -> str:
    """What a program said before it ended with `code`: its own sentence if it made one, else the last lines."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 20_000))
        text = file.read().decode("utf-8", "replace")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and not re.search(r"\d+%\|", line)]
    own = [number for number, line in enumerate(lines) if re.match(r"\w+\.py: ", line)]
    said = "\n".join(lines[own[-1]:] if own else lines[-8:])[-LONGEST_ERROR:]
    how = f"ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit code {code}"
    return said if own else f"{said}\n({how}; {log})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
