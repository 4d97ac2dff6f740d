#!/usr/bin/env python3
"""Turn a video of one person into a data set: python track.py VIDEO -o DATA  (--help lists every setting)."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

from arguments import parse_flags
from arguments.track_settings import TrackSettings
from tracking.pipeline import Outcome, track_video
from utils.devices import resolve_device

log = logging.getLogger("track")


def report(outcome: Outcome) -> None:
    """Say what came of it and what to do next."""
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in outcome.seconds.items())
    log.info("\n%s: %d pictures, %d left out (%s)", outcome.folder, outcome.frames, outcome.dropped, seconds)
    log.info("Verdict: %s", outcome.verdict.word)
    for reason in outcome.verdict.reasons:
        log.info("  - %s", reason)
    log.info("Look at %s, then: python train.py -s %s -m OUT", outcome.folder / "preview.mp4", outcome.folder)


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
        report(track_video(settings, resolve_device(settings.device)))
    except KeyboardInterrupt as error:
        print("\ntrack.py: interrupted; continue with the same command and --resume", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"track.py: {error}")


if __name__ == "__main__":
    main()
