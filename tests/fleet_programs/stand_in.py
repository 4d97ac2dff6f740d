"""What the stand-ins for the programs share: their command line, the ledger of what was done, and how tests steer them.

FLEET_TEST is a folder. Every step that is done becomes a line of ledger.txt in it, also by processes that run at the
same time. A file `pause NAME` in it stops a training of NAME before its fourth step until the file is gone, and the
training leaves `paused NAME` meanwhile; `crash NAME` kills a training there, once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

STEERING = Path(os.environ["FLEET_TEST"])


def value_of(name: str) -> str:
    """The value of a flag, also of --name=value."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if word == f"--{name}":
            return following
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return ""


def note(line: str) -> None:
    """One line in the ledger, in one write."""
    descriptor = os.open(STEERING / "ledger.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def obey(name: str) -> None:
    """Pause or crash where the test says so."""
    crash, pause, paused = (STEERING / f"{word} {name}" for word in ("crash", "pause", "paused"))
    if crash.exists():
        crash.unlink()
        os.kill(os.getpid(), 9)
    while pause.exists():
        paused.touch()
        time.sleep(0.02)
