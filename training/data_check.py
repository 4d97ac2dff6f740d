"""The look at the data before training: an error, warnings and a contact sheet, or nothing."""

from __future__ import annotations

import logging
from pathlib import Path

from scene.inspection import Subject, draw_sheet, inspect_data
from training.world import World
from utils.images import write_image

SHEET_NAME = "data_check.jpg"

log = logging.getLogger(__name__)


def check_data(world: World, folder: Path, always_draw: bool = False) -> None:
    """Look at the data set; where something is doubtful (or `always_draw`), leave SHEET_NAME in `folder` and warn.

    Raises ValueError, after drawing the sheet, when training on this data would be wasted; it names a frame, what was
    wanted, what was found and the likely cause. utils.atomic.WriteError when the sheet cannot be written.
    """
    subject = Subject(world.dataset, world.head, world.rig.posed, world.clip.codes, world.whole)
    findings = inspect_data(subject)
    for finding in findings:
        if not finding.wrong:
            log.warning("Doubtful: %s", finding.text)
    if findings or always_draw:
        write_image(folder / SHEET_NAME, draw_sheet(subject))
        log.info("Look at %s: the head model in green, the mask in orange", folder / SHEET_NAME)
    wrong = [finding.text for finding in findings if finding.wrong]
    if wrong:
        raise ValueError("\n  ".join([f"{wrong[0]}", *wrong[1:], "(--check_data False trains all the same)"]))
