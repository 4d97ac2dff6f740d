#!/usr/bin/env python3
"""Turn a video of one person into a data set: python track.py VIDEO -o DATA  (--help lists every setting)."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from arguments import DataSettings, parse_flags
from arguments.track_settings import TrackSettings
from scene.data import choose_head, open_data
from scene.writers import WRITERS
from tracking.pipeline import track_video
from tracking.run import Outcome
from tracking.several import track_cameras
from utils.devices import resolve_device

log = logging.getLogger("track")


def report(outcome: Outcome) -> None:
    """Say what came of it and what to do next."""
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in outcome.seconds.items())
    log.info("\n%s: %d pictures, %d left out (%s)", outcome.folder, outcome.frames, outcome.dropped, seconds)
    log.info("Verdict: %s", outcome.verdict.word)
    for reason in outcome.verdict.reasons:
        log.info("  - %s", reason)
    several = (outcome.folder / "cameras").is_dir()
    preview = outcome.folder / ("cameras/*/preview.mp4" if several else "preview.mp4")
    log.info("Look at %s, then: python train.py -s %s -m OUT", preview, outcome.folder)


OWN_LAYOUT = "metrical"  # metrical-tracker's layout is the one that DATA itself has
ALIASES = {"flame_params": "imavatar"}  # known by the name of its file
FOR_SEVERAL = ("vhap", "nersemble", OWN_LAYOUT)  # have room for several cameras


def write_others(folder: Path, layouts: tuple[str, ...]) -> None:
    """Write the data set that lies in `folder` into a folder of it for each layout, named after it."""
    for layout in layouts:
        if layout == OWN_LAYOUT:
            log.info("--write %s: DATA itself has that layout", layout)
            continue
        source = open_data(DataSettings(folder))  # complete: it is in the tracker's layout
        target = folder / layout
        target.mkdir()
        WRITERS[ALIASES.get(layout, layout)](target, source, choose_head("auto", source))


def check_layouts(layouts: tuple[str, ...], several: bool) -> None:
    """ValueError for a layout that is not known, or that has no room for several cameras."""
    known = (*WRITERS, *ALIASES, OWN_LAYOUT)
    for layout in layouts:
        if layout not in known:
            raise ValueError(f"--write {layout}: unknown; known are {', '.join(known)}")
        if several and layout not in FOR_SEVERAL:
            raise ValueError(f"--write {layout}: has room for one camera only")


class Stopped(KeyboardInterrupt):
    """The system asked the program to end (SIGTERM)."""


def stop(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C: files are closed, threads end, and the user is told how to go on."""
    raise Stopped


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, stop)
    try:
        settings = parse_flags(TrackSettings, "track.py")
        check_layouts(settings.write, bool(settings.camera))
        track = track_cameras if settings.camera else track_video
        device = resolve_device(settings.device)
        report(track(settings, device, finish=lambda folder: write_others(folder, settings.write)))
    except KeyboardInterrupt as error:
        print("\ntrack.py: interrupted; continue with the same command and --resume", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"track.py: {error}")


if __name__ == "__main__":
    main()
