#!/usr/bin/env python3
"""Turn a video of one person into a data set: python track.py VIDEO -o DATA  (--help lists every setting)."""

from __future__ import annotations

import logging
import sys

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


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = parse_flags(TrackSettings, "track.py")
        report(track_video(settings, resolve_device(settings.device)))
    except KeyboardInterrupt:
        sys.exit("\ntrack.py: interrupted; continue with the same command and --resume")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"track.py: {error}")


if __name__ == "__main__":
    main()
