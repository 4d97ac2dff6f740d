"""Codes of the head model: of a plausible size, and moving."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flame.rotations import matrix_from_6d
from scene.inspection.findings import Finding
from scene.inspection.subject import Subject

EXPRESSION_WRONG, EXPRESSION_DOUBT = 0.1, 0.02  # metres, root mean square over the mesh; tracked people: 0.004
SHAPE_WRONG, SHAPE_DOUBT = 0.2, 0.05  # tracked people: 0.007
LARGEST_TURN = 1.2  # radians, of jaw, eyes and neck
LARGEST_LID = 2.0


def code_findings(subject: Subject) -> Iterator[Finding]:
    """Of expression, identity, jaw, eyes, neck and lids of all frames."""
    head, codes = subject.head, subject.codes
    motion = _motion(head.expression_dirs, codes.expression)
    if len(motion) > 1 and not motion.any():
        yield Finding(False, "the expression codes are 0 in every frame: only jaw, eyes and lids will move the avatar")
    for name, sizes, wrong, doubt in (("expression", motion, EXPRESSION_WRONG, EXPRESSION_DOUBT),
                                      ("shape", _motion(head.shape_dirs, codes.shape[None]), SHAPE_WRONG, SHAPE_DOUBT)):
        frames = torch.nonzero(sizes > doubt)[:, 0].tolist()
        if frames:
            largest = float(sizes.max())
            yield Finding(largest > wrong and len(frames) > len(sizes) / 2,
                          f"{subject.names(frames)}: the {name} codes move the mesh by "
                          f"{1000 * float(sizes[frames[0]]):.0f} mm (root mean square; at most {1000 * largest:.0f}), "
                          f"wanted less than {1000 * doubt:.0f}. Likely cause: codes of another head model (--head)")
    turns = {"jaw": codes.jaw, "left eye": codes.eyes[:, :6], "right eye": codes.eyes[:, 6:]}
    if codes.neck is not None:
        turns["neck"] = codes.neck
    for name, sixes in turns.items():
        angles = _angles(sixes)
        frames = torch.nonzero(angles > LARGEST_TURN)[:, 0].tolist()
        if frames:
            yield Finding(False, f"{subject.names(frames)}: the {name} is turned by {float(angles[frames[0]]):.2f} "
                                 f"radians, wanted less than {LARGEST_TURN}. Likely cause: another convention of "
                                 "rotations (the first two rows of the matrix are wanted)")
    frames = torch.nonzero((codes.eyelids.abs() > LARGEST_LID).any(dim=1))[:, 0].tolist()
    if frames:
        yield Finding(False, f"{subject.names(frames)}: eyelids of "
                             f"{codes.eyelids[frames[0]].tolist()}, wanted about 0 (open) to 1 (closed)")


def _motion(directions: Tensor, codes: Tensor) -> Tensor:
    """Root mean square motion [T] of the vertices by codes [T,E] along directions [V,3,E], metres."""
    flat = directions.flatten(0, 1)
    gram = (flat.T @ flat).double() / len(directions)
    return ((codes.double() @ gram) * codes.double()).sum(dim=1).clamp_min(0).sqrt()


def _angles(sixes: Tensor) -> Tensor:
    """Angles [T] of 6D rotations [T,6], radians."""
    trace = matrix_from_6d(sixes.double()).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return torch.arccos(((trace - 1) / 2).clamp(-1, 1))
