"""Notices that a process of the team is gone, though the others may hang in a collective, and ends the run with a word.

A process that ended can be seen by those of its host at once. Those of other hosts see that its heart, a counter in
the store that torchrun keeps, does not beat. Whoever waits for it on a GPU would wait for ever, so the program is ended
from a thread.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from training.team import Team

BEAT = 1.0  # seconds
RANK_0_FIRST = 5.0  # seconds that others leave it to report what may be everyone's error
SILENCE = 60.0  # seconds without a beat after which a process of another host is taken for dead: a stalled network


@dataclass(frozen=True)
class _Place:
    """Where a process runs."""

    host: str
    pid: int
    pids: str  # which process numbers these are: of which start of which kernel, in which container

    @staticmethod
    def own() -> _Place:
        pids = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
        return _Place(socket.gethostname(), os.getpid(), pids)

    def ended(self) -> bool:
        """Whether the process is known to be gone, or to wait for nothing but its parent's notice of that."""
        if self.pids != self.own().pids:
            return False
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "ZX"


def _say(*lines: str) -> None:
    print("", *lines, sep="\n", file=sys.stderr, flush=True)  # the progress bar has left the line unfinished


class Watch:
    """Watches the other processes of a team from a thread, until `stop`. Does nothing for one alone.

    `hint`: how to go on, for the message. The lowest rank that lives prints it; then each process ends with status 1.
    """

    def __init__(self, team: Team, hint: Callable[[], str]) -> None:
        self._team, self._hint = team, hint
        self._stopped = threading.Event()
        if team.size == 1:
            return
        self._places: list[_Place] = team.tell(_Place.own())
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self._store = dist.PrefixStore(f"watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        self._beats = dict.fromkeys(range(team.size), (0, time.monotonic()))
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """This process is about to end as it should."""
        if self._team.size > 1 and not self._stopped.is_set():
            with suppress(RuntimeError):  # the store may have gone with torchrun
                self._store.add(f"done/{self._team.rank}", 1)
            self._stopped.set()
            self._thread.join()

    def fail(self, message: str) -> None:
        """End this process because of an error of its own, which is printed; the others end too.

        Where rank 0 has the same error, it alone prints it: the thread ends the others when it has.
        """
        if not self._team.leads:
            time.sleep(RANK_0_FIRST)
        _say(f"train.py: rank {self._team.rank}: {message}", self._hint())
        with suppress(RuntimeError):  # the store went first, so did whoever could have read it
            self._store.add(f"failed/{self._team.rank}", 1)
        os._exit(1)  # leaving the usual way waits for collectives that no one else will finish

    def wait_for_the_end(self) -> None:
        """After a collective failed: give the thread the time to find out why and to end this process."""
        time.sleep(SILENCE + 10 * BEAT)

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            try:
                gone = self._look()
            except RuntimeError:  # the store is gone: with rank 0, or with torchrun
                gone = {0: "took the store of the processes with it"}
            if gone and not self._stopped.is_set():
                self._end(gone)

    def _look(self) -> dict[int, str]:
        """Ranks that are gone, each with what is known of it; "" for those that spoke for themselves."""
        self._store.add(f"beat/{self._team.rank}", 1)
        now, gone = time.monotonic(), {}
        for rank, place in enumerate(self._places):
            if rank == self._team.rank or self._store.add(f"done/{rank}", 0):
                continue
            beats, since = self._beats[rank]
            found = self._store.add(f"beat/{rank}", 0)
            if found != beats:
                self._beats[rank] = found, now
            if self._store.add(f"failed/{rank}", 0):
                gone[rank] = ""
            elif place.ended():
                gone[rank] = f"process {place.pid} of {place.host} ended unexpectedly (killed, or out of memory?)"
            elif found == beats and now - since > SILENCE:
                gone[rank] = f"process {place.pid} of {place.host} has not been heard of for {SILENCE:.0f} s"
        return gone

    def _end(self, gone: dict[int, str]) -> None:
        if self._team.rank == min(set(range(self._team.size)) - set(gone)):
            lines = [f"train.py: rank {rank} of {self._team.size}: {text}" for rank, text in gone.items() if text]
            if lines:
                _say(*lines, self._hint())
        os._exit(1)
