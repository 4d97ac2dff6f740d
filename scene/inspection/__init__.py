"""Looking at a data set before it is learnt from: masks, cameras, codes and repeated frames, in words.

What cannot be (an empty mask, a head behind the camera) is wrong; what is only unusual is a doubt. The limits stand
far from tracked clips of people and from the demo subject, on which no check speaks.
"""

from __future__ import annotations

from scene.inspection.cameras import camera_findings, overlap_findings
from scene.inspection.codes import code_findings
from scene.inspection.findings import Finding
from scene.inspection.masks import empty_targets, mask_findings, repeat_findings
from scene.inspection.sheet import draw_sheet
from scene.inspection.subject import Subject

__all__ = ["Finding", "Subject", "draw_sheet", "empty_targets", "inspect_data"]


def inspect_data(subject: Subject) -> list[Finding]:
    """Everything that is wrong or doubtful, in the order in which it should be mended.

    Checks that build on others are left out where those found something wrong.
    """
    findings = [*mask_findings(subject), *camera_findings(subject)]
    if not any(finding.wrong for finding in findings):
        findings += overlap_findings(subject)
    return [*findings, *code_findings(subject), *repeat_findings(subject)]
