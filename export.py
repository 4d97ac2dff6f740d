#!/usr/bin/env python3
"""Write a trained avatar in a format that other programs read: python export.py OUT --format ply  (--help)."""

from __future__ import annotations

import logging
import sys

from arguments import parse_flags
from arguments.export_settings import ExportSettings
from exporting import exporter_of
from player.player import open_player
from scene.checkpoint import CheckpointError
from utils.atomic import terminate_as_exit
from utils.devices import resolve_device

log = logging.getLogger("export")


def export(settings: ExportSettings) -> None:
    """Open the avatar and write it."""
    device = resolve_device(settings.device)
    player = open_player(settings.model_path, device, settings.iteration, settings.source_path)
    written = exporter_of(settings.format)(player, settings)
    files = [p for p in written.rglob("*") if p.is_file()] if written.is_dir() else [written]
    size = sum(path.stat().st_size for path in files) / 1e6
    log.info("%s: %.1f MB%s", written, size, f" in {len(files)} files" if written.is_dir() else "")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    terminate_as_exit()
    try:
        export(parse_flags(ExportSettings, "export.py"))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"export.py: {error}")


if __name__ == "__main__":
    main()
