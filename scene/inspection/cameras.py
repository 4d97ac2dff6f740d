"""Cameras against masks: is the head in front, in the picture, of its size, upright, and where the mask is?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scene.inspection.findings import Finding
from scene.inspection.subject import Subject

SMALLEST, LARGEST = 0.015, 2.0  # radius of a head, in picture sides
COVER_WRONG, COVER_DOUBT, COVER_FRAME = 0.3, 0.8, 0.6  # share of the mesh inside the mask: of most, of a single frame
AREA_WRONG, AREA_DOUBT = 100.0, 8.0  # mask by mesh
RING_SHIFT, RING_TURN = 0.005, 0.5  # metres, degrees: between cameras that should stand still
JUMP = 1.0  # head radii between mask and mesh, from their usual distance
WIDEST, NARROWEST = 120.0, 2.0  # degrees of view


def camera_findings(subject: Subject) -> list[Finding]:
    """Of cameras alone."""
    place = list(_place_findings(subject))
    # What lies behind the camera is also upside down, and for the same reason.
    turn = [] if any(finding.wrong for finding in place) else _turn_findings(subject)
    return [*place, *_lens_findings(subject), *turn, *_ring_findings(subject)]


def overlap_findings(subject: Subject) -> list[Finding]:
    """Of the head, projected by its cameras, against the masks; for data of which `camera_findings` found no fault."""
    return [*_overlap_findings(subject), *_jump_findings(subject)]


def _place_findings(subject: Subject) -> Iterator[Finding]:
    """Is the head in front of the camera, of a plausible size, in the picture?"""
    size = subject.size.min(axis=1)
    behind = np.flatnonzero(subject.depth <= 0)
    if len(behind):
        cause = ("the cameras follow OpenGL's convention (y up, z backwards) where the layout wants OpenCV's (y down, "
                 "z forward), or the other way round; multiply the second and third row of R and t by -1"
                 if len(behind) == len(subject.depth)
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
                          f"to {LARGEST:.0%} of the picture, found {subject.radius[first] / size[first]:.2%} at a "
                          f"depth of {subject.depth[first]:.3g} m. Likely cause: {_unit(subject.depth[first])}")
            return
    yield from _outside_findings(subject)


def _unit(depth: float) -> str:
    """What a depth of a head in metres says of the unit of translation."""
    for factor, name in ((1000, "millimetres"), (100, "centimetres")):
        if depth > 20 and 0.2 <= depth / factor <= 5:
            return f"t is in {name}; divide it by {factor} (everything is in metres)"
    return "t is not in metres, or K belongs to pictures of another size"


def _wrong_size(subject: Subject, frame: int) -> str | None:
    """What a principal point far from the middle of the picture says, or None."""
    factor = 2 * float(subject.dataset.K[frame, 0, 2]) / int(subject.size[frame, 0])
    return None if 0.6 < factor < 1.6 else f"K belongs to pictures of about {factor:.2g} times the size"


def _outside_findings(subject: Subject) -> Iterator[Finding]:
    over = np.maximum(-subject.center, subject.center - subject.size).max(axis=1)
    frames = np.flatnonzero(over > subject.radius)
    if len(frames) == 0:
        return
    (x, y), (width, height) = subject.center[frames[0]], subject.size[frames[0]]
    cause = _wrong_size(subject, int(frames[0])) or "another convention of axes, or t of another unit"
    yield Finding(len(frames) > len(subject.depth) / 2,
                  f"{subject.names(frames)}: the head is outside the picture: wanted its centre within {width} x "
                  f"{height} pixels, found ({x:.0f}, {y:.0f}). Likely cause: {cause}")


def _lens_findings(subject: Subject) -> Iterator[Finding]:
    for frames in subject.by_camera:
        yield from _lens_of(subject, int(frames[0]))


def _lens_of(subject: Subject, frame: int) -> Iterator[Finding]:
    K, (width, height) = subject.dataset.K[frame], (int(side) for side in subject.size[frame])
    fx, fy, cx, cy = (float(K[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    view = np.degrees(2 * np.arctan(width / (2 * fx)))
    if not 0.9 < fx / fy < 1.1:
        yield Finding(False, f"{subject.name(frame)}: focal lengths of {fx:.4g} and {fy:.4g} pixels differ by more "
                             "than a tenth; pixels are usually square")
    if not NARROWEST < view < WIDEST:
        yield Finding(False, f"{subject.name(frame)}: the camera sees {view:.3g} degrees, wanted {NARROWEST:g} to "
                             f"{WIDEST:g}; K is in pixels of the image")
    if not (-0.5 < cx / width < 1.5 and -0.5 < cy / height < 1.5):
        yield Finding(False, f"{subject.name(frame)}: the principal point ({cx:.0f}, {cy:.0f}) lies far outside of the "
                             f"{width} x {height} pixels; K may belong to pictures of another size")


def _turn_findings(subject: Subject) -> Iterator[Finding]:
    """Does the head stand upright and show its face? Head space is y up, z forward; the camera's y is down."""
    R, cameras = subject.dataset.R, subject.dataset.recording.cameras
    down, away = ([float(R[frames, axis, axis].median()) for frames in subject.by_camera] for axis in (1, 2))
    turned = [f"camera {name}: " if name else "" for name, value in zip(cameras, down, strict=True) if value > 0.5]
    if turned:
        more = f" (and of {len(turned) - 1} more cameras)" if len(turned) > 1 else ""
        yield Finding(False, f"{turned[0]}the head stands upside down in most frames{more}; axes of the cameras may be "
                             "of another convention, or the video is turned")
    elif min(away) > 0.3:  # of several cameras some may well stand behind the head
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
        corners = np.median([sample.mask[[0, 0, -1, -1], [0, -1, 0, -1]].all() for sample in seen])
        cause = ("the mask is inverted (255 around the head)" if usual < 1 - COVER_DOUBT and corners
                 else _wrong_size(subject, worst.frame) or "tracking and pictures do not belong together, or the "
                                                           "cameras follow another convention")
        yield Finding(usual < COVER_WRONG,
                      f"{subject.name(worst.frame)}: wanted the projected head inside the mask, found "
                      f"{worst.cover:.0%} there (median of {len(seen)} frames: {usual:.0%}). Likely cause: {cause}")
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
    known = {frame: facts.center for frame, facts in zip(subject.frames, subject.facts, strict=True)
             if not facts.is_empty}
    for mine in subject.by_camera:
        frames = np.array([frame for frame in mine.tolist() if frame in known], dtype=int)
        if not len(frames):
            continue
        offsets = (np.array([known[frame] for frame in frames]) - subject.center[frames]) / subject.radius[frames, None]
        away = np.linalg.norm(offsets - np.median(offsets, axis=0), axis=1)
        jumps = frames[away > JUMP]
        if len(jumps):
            yield Finding(False, f"{subject.names(jumps)}: mask and head lie apart by "
                                 f"{away[frames == jumps[0]][0]:.1f} head radii more than usual; tracking or matting "
                                 "failed there")


def _ring_findings(subject: Subject) -> Iterator[Finding]:
    """Do the cameras stand still against each other? The pose of a moment is that of one head before all of them."""
    recording, data = subject.dataset.recording, subject.dataset
    if not recording.several:
        return
    reference = recording.reference[recording.time]
    R, t = data.R.double().numpy(), data.t.double().numpy()
    turn = R @ R[reference].transpose(0, 2, 1)  # from the moment's reference camera to each
    place = t - (turn @ t[reference][..., None])[..., 0]
    main = recording.view[recording.reference[0]]
    for name, frames in zip(recording.cameras, subject.by_camera, strict=True):
        mine = frames[recording.view[reference[frames]] == main]
        if len(mine) < 2:
            continue
        usual = np.median(place[mine], axis=0)
        apart = np.linalg.norm(place[mine] - usual, axis=1)
        middle = mine[int(apart.argmin())]
        cosine = (np.einsum("nij,ij->n", turn[mine], turn[middle]) - 1) / 2
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        if np.median(apart) > RING_SHIFT or np.median(angle) > RING_TURN:
            yield Finding(False, f"camera {name} moves against camera {recording.cameras[main]}: by "
                                 f"{1000 * np.median(apart):.0f} mm and {np.median(angle):.1f} degrees in the median "
                                 "moment, wanted none. Likely cause: the cameras were tracked one by one, or numbers "
                                 "of frames do not stand for the same moments")
