"""python -m data.demo --out FOLDER [--frames N] [--size PIXELS] [--seed N] [--mode MODE] [--cameras N] [--workers N]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import tyro

from data.demo.generate import Settings, generate


def main(
    out: Path, frames: int = 300, size: int = 256, seed: int = 0, mode: Literal["insta", "nerfbs", "hr"] = "insta",
    cameras: int = 1, workers: int | None = None,
) -> None:
    """Draw the demo subject and write it as a tracked data set.

    Args:
        out: folder to write; must be new, empty, or an earlier demo data set.
        frames: length of the clip, about 25 frames a second.
        size: side of the images in pixels ("hr" writes them twice as large).
        seed: person and motion.
        mode: which of the three tracker layouts.
        cameras: how many stand in a ring around the head.
        workers: processes; default one per core.
    """
    try:
        fresh = generate(out, Settings(frames, size, seed, mode, cameras), workers)
    except (ValueError, FileExistsError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"\n{out}: stopped, nothing was written")
    seen = f" by {cameras} cameras" if cameras > 1 else ""
    print(f"{out}: {frames} frames{seen}, {'written' if fresh else 'already there, drawn with the same settings'}")


if __name__ == "__main__":
    tyro.cli(main)
