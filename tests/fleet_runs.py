"""Runs of fleet.py in a process of its own, with stand-ins for the programs that need milliseconds (fleet_programs)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from orchestration.stages import STAGES, Place
from orchestration.worker import end_with_parent

PROGRAMS = Path(__file__).with_name("fleet_programs")
STEPS = [f"train {step}" for step in range(1, 7)]
PATIENCE = 120.0  # seconds; only a failing test waits as long


class Run:
    """A folder with videos and what fleet.py makes of them in out/."""

    def __init__(self, folder: Path, names: tuple[str, ...], broken: tuple[str, ...] = ()) -> None:
        self.folder, self.videos, self.out = folder, folder / "videos", folder / "out"
        self.steering = folder / "steering"
        for made in (self.videos, self.steering):
            made.mkdir()
        for name in names:
            (self.videos / f"{name}.mp4").write_bytes(b"broken" if name in broken else b"video")

    def start(self, *flags: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """fleet.py in a process that ends with the tests at the latest; `before` is called in it."""
        def prepare() -> None:
            end_with_parent()
            if before is not None:
                before()

        words = [str(PROGRAMS / "fleet.py"), str(self.videos), "-o", str(self.out), *flags]
        return subprocess.Popen([sys.executable, *words], cwd=self.folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={**os.environ, "FLEET_TEST": str(self.steering)}, preexec_fn=prepare)

    def call(self, *flags: str) -> tuple[int, str]:
        """fleet.py to its end, one subject after another: exit code, and what it said."""
        process = self.start("--scheduler", "local", *flags)
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def pause(self, name: str) -> None:
        (self.steering / f"pause {name}").touch()

    def go_on(self, name: str) -> None:
        (self.steering / f"pause {name}").unlink()

    def wait_for_pause(self, name: str) -> None:
        """Until the training of `name` stands before its fourth step."""
        wait_until(lambda: (self.steering / f"paused {name}").exists())

    def crash_once(self, name: str) -> None:
        (self.steering / f"crash {name}").touch()

    def ledger(self) -> Counter[str]:
        """What was done, and how often."""
        path = self.steering / "ledger.txt"
        return Counter(path.read_text().splitlines() if path.exists() else [])

    def expected(self, *names: str) -> Counter[str]:
        """Everything once for each of `names`."""
        return Counter(f"{name} {step}" for name in names for step in ("track", *STEPS, "test"))

    def is_complete(self, name: str) -> bool:
        """Whether the avatar is there with all of its files, and nothing half-done beside it."""
        place = Place(self.out, name)
        avatar = place.product(STAGES["test"])
        return (len(list((avatar / "checkpoints").glob("iteration_*/avatar.safetensors"))) == 6
                and (avatar / "metrics.json").is_file() and place.record(STAGES["test"]) is not None
                and not place.product(STAGES["train"]).exists() and not place.attempts.exists())


def wait_until(true: Callable[[], bool]) -> None:
    """TimeoutError when it stays false."""
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("what the test waits for did not happen")
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
