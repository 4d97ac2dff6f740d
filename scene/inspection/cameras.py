"""Cameras against masks: is the head in front, in the picture, of its size, upright, and where the mask is?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scene.inspection.findings import Finding
from scene.inspection.subject import Subject

SMALLEST, LARGEST = 0.015, 2.0  # radius of a head, in picture sides
COVER_WRONG, COVER_DOUBT, COVER_FRAME = 0.3, 0.8, 0.6  # share of the mesh inside the mask: of most, of a single frame
AREA_WRONG, AREA_DOUBT = 100.0, 8.0  # mask by mesh
JUMP = 1.0  # head radii between mask and mesh, from their usual distance
WIDEST, NARROWEST = 120.0, 2.0  # degrees of view


def camera_findings(subject: Subject) -> list[Finding]:
    """Of cameras alone."""
    place = list(_place_findings(subject))
    # What lies behind the camera is also upside down, and for the same reason.
    turn = [] if any(finding.wrong for finding in place) else _turn_findings(subject)
    return [*place, *_lens_findings(subject), *turn]


def overlap_findings(subject: Subject) -> list[Finding]:
    """Of the head, projected by its cameras, against the masks; for data of which `camera_findings` found no fault."""
    return [*_overlap_findings(subject), *_jump_findings(subject)]


def _place_findings(subject: Subject) -> Iterator[Finding]:
    """Is the head in front of the camera, of a plausible size, in the picture?"""
    size = min(subject.dataset.width, subject.dataset.height)
    behind = np.flatnonzero(subject.depth <= 0)
    if len(behind):
        cause = ("the cameras follow OpenGL's convention (y up, z backwards); multiply the second and third row of R "
                 "and t by -1, OpenCV's has y down and z forward" if len(behind) == len(subject.depth)
                 else "tracking was lost there; leave these frames out or track them again")
        yield Finding(True, f"{subject.names(behind)}: the head is behind the camera: wanted a positive depth, found "
                            f"{subject.depth[behind[0]]:.3g} m. Likely cause: {cause}")
        return
    small = np.flatnonzero(subject.radius < SMALLEST * size)
    large = np.flatnonzero(subject.radius > LARGEST * size)
    for frames, word in ((small, "small"), (large, "large")):
        if len(frames):
            first = frames[0]
            yield Finding(len(frames) > len(subject.depth) / 2,
                          f"{subject.names(frames)}: the head is much too {word}: wanted a radius of {SMALLEST:.1%} "
                          f"to {LARGEST:.0%} of the picture, found {subject.radius[first] / size:.2%} at a depth of "
                          f"{subject.depth[first]:.3g} m. Likely cause: {_unit(subject.depth[first])}")
            return
    yield from _outside_findings(subject)


def _unit(depth: float) -> str:
    """What a depth of a head in metres says of the unit of translation."""
    for factor, name in ((1000, "millimetres"), (100, "centimetres")):
        if depth > 20 and 0.2 <= depth / factor <= 5:
            return f"t is in {name}; divide it by {factor} (everything is in metres)"
    return "t is not in metres, or K belongs to pictures of another size"


def _outside_findings(subject: Subject) -> Iterator[Finding]:
    data = subject.dataset
    over = np.maximum(-subject.center, subject.center - (data.width, data.height)).max(axis=1)
    frames = np.flatnonzero(over > subject.radius)
    if len(frames) == 0:
        return
    x, y = subject.center[frames[0]]
    factor = 2 * float(data.K[0, 0, 2]) / data.width
    cause = (f"K belongs to pictures of about {factor:.2g} times the size" if not 0.6 < factor < 1.6
             else "another convention of axes, or t of another unit")
    yield Finding(len(frames) > len(subject.depth) / 2,
                  f"{subject.names(frames)}: the head is outside the picture: wanted its centre within {data.width} "
                  f"x {data.height} pixels, found ({x:.0f}, {y:.0f}). Likely cause: {cause}")


def _lens_findings(subject: Subject) -> Iterator[Finding]:
    data = subject.dataset
    fx, fy, cx, cy = (float(data.K[0, row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    view = np.degrees(2 * np.arctan(data.width / (2 * fx)))
    if not 0.9 < fx / fy < 1.1:
        yield Finding(False, f"{subject.name(0)}: focal lengths of {fx:.4g} and {fy:.4g} pixels differ by more than a "
                             "tenth; pixels are usually square")
    if not NARROWEST < view < WIDEST:
        yield Finding(False, f"{subject.name(0)}: the camera sees {view:.3g} degrees, wanted {NARROWEST:g} to "
                             f"{WIDEST:g}; K is in pixels of the image")
    if not (-0.5 < cx / data.width < 1.5 and -0.5 < cy / data.height < 1.5):
        yield Finding(False, f"{subject.name(0)}: the principal point ({cx:.0f}, {cy:.0f}) lies far outside of the "
                             f"{data.width} x {data.height} pixels; K may belong to pictures of another size")


def _turn_findings(subject: Subject) -> Iterator[Finding]:
    """Does the head stand upright and show its face? Head space is y up, z forward; the camera's y is down."""
    down = float(subject.dataset.R[:, 1, 1].median())
    away = float(subject.dataset.R[:, 2, 2].median())
    if down > 0.5:
        yield Finding(False, "the head stands upside down in most frames; axes of the cameras may be of another "
                             "convention, or the video is turned")
    elif away > 0.3:
        yield Finding(False, "the head shows its back in most frames; axes of the cameras may be of another convention")


def _overlap_findings(subject: Subject) -> Iterator[Finding]:
    """Does the projected mesh lie inside the mask, and is it of its size?"""
    seen = [sample for sample in subject.drawn if sample.mask.any()]
    if not seen:
        return
    covers = np.array([sample.cover for sample in seen])
    worst = seen[int(covers.argmin())]
    area = float(np.median([sample.mask.sum() / max(1, sample.mesh.sum()) for sample in seen]))
    usual = float(np.median(covers))
    if usual < COVER_DOUBT:
        # Of an inverted mask the head is a hole: nothing of the mesh is in it, and it goes all around.
        cause = ("the mask is inverted (255 around the head)" if usual < 1 - COVER_DOUBT and area > 1
                 else "tracking and pictures do not belong together, or the cameras follow another convention")
        yield Finding(usual < COVER_WRONG,
                      f"{subject.name(worst.frame)}: wanted the projected head inside the mask, found "
                      f"{worst.cover:.0%} of it there (median of {len(seen)} frames: {usual:.0%}). Likely cause: {cause}")
    elif area > AREA_DOUBT:
        yield Finding(area > AREA_WRONG, f"the mask is {area:.3g} times as large as the projected head, wanted less "
                                         f"than {AREA_DOUBT:g}. Likely cause: the unit of t, or masks of a body")
    else:
        frames = [sample.frame for sample in seen if sample.cover < COVER_FRAME]
        if frames:
            yield Finding(False, f"{subject.names(frames)}: only {worst.cover:.0%} of the projected head lies inside "
                                 f"the mask, {usual:.0%} in most frames; tracking or matting failed there")


def _jump_findings(subject: Subject) -> Iterator[Finding]:
    """Frames in which the mask lies elsewhere against the head than in the others."""
    known = [(frame, facts.center) for frame, facts in zip(subject.frames, subject.facts, strict=True)
             if not facts.is_empty]
    if not known:
        return
    frames = np.array([frame for frame, _ in known])
    offsets = (np.array([center for _, center in known]) - subject.center[frames]) / subject.radius[frames, None]
    away = np.linalg.norm(offsets - np.median(offsets, axis=0), axis=1)
    jumps = frames[away > JUMP]
    if len(jumps):
        yield Finding(False, f"{subject.names(jumps)}: mask and head lie apart by {away[frames == jumps[0]][0]:.1f} "
                             "head radii more than usual; tracking or matting failed there")
