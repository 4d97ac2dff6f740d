"""One try at one stage of one subject: a folder of its own that becomes the result by being renamed.

    OUT/attempts/NAME/STAGE-MACHINE-PID-RANDOM/
        attempt.json    who works here on what
        heartbeat       touched every BEAT seconds while somebody does
        NAME/           what the program writes: renamed to OUT/<product>/NAME when complete

There are no locks, so nothing needs to work on network disks but a rename within one folder tree. Safety rests on two
renames that cannot both succeed: of the product into its place, where the first one wins, and of a whole attempt out of
the way before it is deleted, after which its owner finds nothing to publish. Heartbeats only save work: who sees a
fresh one leaves the stage to its owner.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from orchestration.stages import STAGES, Place, Stage
from utils.atomic import MACHINE, lives, write_json
from utils.plain_json import read_json

BEAT = 5.0  # seconds between heartbeats
LEASE = 300.0  # seconds without one after which another machine's attempt counts as dead; disks may hang for minutes
RECORD, HEARTBEAT, GONE = "attempt.json", "heartbeat", ".gone-"
SHARED = "checkpoints"  # holds folders of files that are never changed once written: linked, not copied


class LostError(RuntimeError):
    """The attempt's folder was taken away, because it counted as dead."""


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    with suppress(OSError, ValueError):
        record = read_json(path)
        return record if isinstance(record, dict) else {}
    return {}


def now() -> str:
    """The time as records and pages show it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Attempt:
    """This process's try. wish: what decides the result; a later attempt goes on only with what has the same.

    Raises OSError where the folder cannot be made.
    """

    def __init__(self, place: Place, stage: Stage, wish: dict[str, Any]) -> None:
        self.place, self.stage, self.wish = place, stage, wish
        self.name = f"{stage.name}-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = place.attempts / self.name
        self.product = self.folder / place.name
        self.log = place.logs / f"{self.name}.txt"
        self._record: dict[str, Any] = {
            "stage": stage.name, "wish": wish, "host": socket.gethostname(), "machine": MACHINE, "pids": [os.getpid()],
            "began": now(), "again": False, "failed": False}
        self.folder.mkdir(parents=True)
        place.logs.mkdir(parents=True, exist_ok=True)
        self._write()
        (self.folder / HEARTBEAT).touch()

    def _write(self) -> None:
        write_json(self.folder / RECORD, self._record)

    def beat(self) -> None:
        """Say that somebody works here. LostError when the folder has gone."""
        try:
            os.utime(self.folder / HEARTBEAT)
        except FileNotFoundError:
            raise LostError(f"{self.folder}: was taken away") from None

    def watch(self, pid: int) -> None:
        """Note the program's process: while it lives on this machine, the attempt is not dead."""
        self._record["pids"] = [os.getpid(), pid]
        self._write()

    def busy_elsewhere(self) -> str | None:
        """Who else works on the same stage just now: a host's name, or None."""
        self.beat()
        for other in others(self.place, self.stage, self.name):
            if self._is_alive(other):
                return str(read_record(other / RECORD).get("host", "another machine"))
        return None

    def _is_alive(self, other: Path) -> bool:
        """Whether another attempt has a fresh heartbeat and its processes, if on this machine, still exist."""
        try:  # both times are the file server's, so that clocks of machines do not matter
            age = (self.folder / HEARTBEAT).stat().st_mtime - (other / HEARTBEAT).stat().st_mtime
        except OSError:
            return _age_of_folder(self.folder, other) < LEASE and not _is_dead_here(other)
        return age < LEASE and not _is_dead_here(other)

    def inherit(self) -> bool:
        """Go on from where a dead attempt with the same wish stopped, if there is one; the dead ones are removed.

        Files are copied or linked, never moved: should their owner be alive after all, both can do no harm. One that
        failed after it had itself gone on from another is not gone on from: what it inherited may be the cause.
        """
        taken = False
        for other in others(self.place, self.stage, self.name):
            if self._is_alive(other):
                continue
            record = read_record(other / RECORD)
            sound = record.get("wish") == self.wish and not (record.get("failed") and record.get("again"))
            if self.stage.resumes and sound and not taken:
                taken = self._take(other)
                self._record["again"] = taken and bool(record.get("failed") or record.get("again"))
            discard(other)
        if taken:
            self._write()
        return taken

    def _take(self, other: Path) -> bool:
        try:
            for entry in other.iterdir():
                if entry.is_dir():
                    copy_tree(entry, self.folder / entry.name)
        except (OSError, shutil.Error):
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
            return False
        return any(entry.is_dir() for entry in self.folder.iterdir())

    def publish(self, record: dict[str, Any]) -> bool:
        """Let the product appear in its place with `record` in it; False when another's has been there before.

        Raises LostError when the attempt was taken away meanwhile.
        """
        target = self.place.product(self.stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.product / self.stage.record, record)
        os.sync()  # what the programs wrote must not come to the disk after the rename
        self.beat()  # a writer makes missing folders anew; the heartbeat is made once, so it tells whether this is ours
        try:
            os.rename(self.product, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            if isinstance(error, FileNotFoundError):
                raise LostError(f"{self.folder}: was taken away") from None
            raise
        return True

    def fail(self, error: str) -> None:
        """Leave word of the failure, and the folder for the next attempt if that can go on with it."""
        write_json(self.log.with_suffix(".failed.json"),
                   {"stage": self.stage.name, "host": self._record["host"], "when": now(), "error": error})
        if self.stage.resumes:
            self._record |= {"failed": True, "pids": []}
            self._write()
            os.utime(self.folder / HEARTBEAT, (0, 0))
        else:
            self.close()

    def leave(self) -> None:
        """Stop working here, so that anybody may go on."""
        with suppress(OSError):
            self._record["pids"] = []
            self._write()
            os.utime(self.folder / HEARTBEAT, (0, 0))

    def close(self) -> None:
        """Remove what is left of the attempt."""
        discard(self.folder)

    def take_away(self, product: Path) -> None:
        """Remove another stage's product in one step as others see it. Call `close` afterwards."""
        with suppress(OSError):
            os.rename(product, self.folder / f"{GONE}{product.name}")


def others(place: Place, stage: Stage, name: str) -> list[Path]:
    """Folders of all attempts at the stage but the one called `name`, newest first."""
    try:
        found = [entry for entry in place.attempts.iterdir()
                 if entry.name.startswith(f"{stage.name}-") and entry.name != name]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda entry: str(read_record(entry / RECORD).get("began")), reverse=True)


def discard(folder: Path) -> None:
    """Remove a folder in one step as others see it: renamed first, so that nobody finds half of it."""
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with suppress(OSError):
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # the last one turns off the light


def clear(place: Place) -> None:
    """Remove attempts of a subject whose stage is finished or that nobody will go on with, and what removals left.

    Raises OSError.
    """
    if not place.attempts.is_dir():
        return
    for entry in list(place.attempts.iterdir()):
        stage = STAGES.get(entry.name.split("-")[0])
        if entry.name.startswith(GONE):
            shutil.rmtree(entry, ignore_errors=True)
        elif stage is not None and place.record(stage) is not None and _is_dead_here(entry):
            discard(entry)
    with suppress(OSError):
        place.attempts.rmdir()


def stage_at_work(place: Place) -> str | None:
    """The stage that somebody seems to work on, going by this machine's clock; None when nobody does."""
    with suppress(OSError):
        for entry in place.attempts.iterdir():
            stage = entry.name.split("-")[0]
            age = time.time() - (entry / HEARTBEAT).stat().st_mtime
            if stage in STAGES and age < LEASE and not _is_dead_here(entry):
                return stage
    return None


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; files in checkpoints become links to the same content where the disk can do that.

    Temporary files of writers are left out. Raises OSError or shutil.Error, also when files vanish meanwhile.
    """
    shutil.copytree(source, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(".*.tmp", ".*.tmp.*"),
                    symlinks=True)


def _link_or_copy(source: str, target: str) -> None:
    folder = Path(source).parent
    if folder.name.startswith("iteration_") and folder.parent.name == SHARED:
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _is_dead_here(folder: Path) -> bool:
    """Whether it gave itself up, or belongs to this machine and none of its processes exists any more.

    This process makes one attempt at a time, so an earlier one of its own is over.
    """
    record = read_record(folder / RECORD)
    pids = record.get("pids")
    if record.get("machine") != MACHINE or not isinstance(pids, list):
        return pids == []
    return not any(isinstance(pid, int) and pid != os.getpid() and lives(pid) for pid in pids)


def _age_of_folder(mine: Path, other: Path) -> float:
    """Seconds by which an attempt without a heartbeat is older: it was begun just now, or it is being removed."""
    try:
        return (mine / HEARTBEAT).stat().st_mtime - other.stat().st_mtime
    except OSError:
        return LEASE
