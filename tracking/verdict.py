"""How far a tracked clip can be trusted, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.footage import ByteImage
from tracking.landmarks import Track, face_size
from tracking.records import BLENDSHAPE_NAMES, Fit, Floats

WORDS = ("good", "usable", "poor")

# (usable beyond, poor beyond): what held-out quality was seen to suffer from, and rounded.
FEW_FRAMES = (250, 100)        # kept pictures, fewer than
SMALL_FACE = (180, 90)         # pixels of the footage from forehead to chin, fewer than
BLURRED_SHARE = (0.15, 0.5)    # share of blurred pictures, more than
DROPPED_SHARE = (0.1, 0.4)     # share of pictures without the followed face, more than
PROFILE_SHARE = (0.15, 0.5)    # share of pictures turned by more than PROFILE, more than
CROWD_SHARE = (0.05, 0.5)      # share of pictures with another face, more than
MEAN_ERROR = (0.010, 0.020)    # landmark error, of the crop's side (5 and 10 pixels of 512), more than
ODD_SHARE = (0.03, 0.15)       # share of pictures whose error sticks out, more than
EXPRESSIONS = (8, 3)           # expressions that are used, fewer than
EMPTY_MATTE = (0.01, 0.2)      # share of pictures whose matte misses much of the head, more than

SKULL_BEYOND = (0.035, 0.10)   # how far the skull of the fitted head reaches beyond the matte, of its width, more than
EARS_BEYOND = (0.035, 0.10)    # the same of the ears

PROFILE = 45.0                 # degrees of yaw; the far half of the face is out of sight
BLURRED = 0.038                # `sharpness` below it; sharp web video has 0.06, blurred by 1 pixel 0.045, by 2 0.027
LITTLE_TURN = 15.0             # degrees of yaw from side to side; told, but no fault where that is what is wanted
USED = 0.25                    # range of a blendshape score over the clip that counts as used
ODD = 2.5                      # times the median error
FACE_SIZE = 280                # pixels at which sharpness is measured at most
MISSED = 0.8                   # share of the fitted face that the matte must hold


@dataclass(frozen=True, eq=False)
class Quality:
    """Per kept picture [T]: face_pixels (forehead to chin, of the footage), sharpness (see `sharpness`), yaw degrees,
    others (further faces), landmark_error (pixels of the crop), matte_area (share of the crop that is opaque),
    matte_on_face (share of the fitted face that is opaque), skull_beyond and ears_beyond (see `outline.reach_out`; NaN
    where they are not seen).
    """

    face_pixels: Floats
    sharpness: Floats
    yaw: Floats
    others: NDArray[np.int64]
    landmark_error: Floats
    matte_area: Floats
    matte_on_face: Floats
    skull_beyond: Floats
    ears_beyond: Floats


@dataclass(frozen=True)
class Verdict:
    """word: good, usable or poor. reasons: a sentence each, the worst first; empty when all is well."""

    word: str
    reasons: tuple[str, ...]


def sharpness(rgb: ByteImage, points: Floats) -> float:
    """Fine detail relative to contrast in the face, at the landmarks [478,2]; see BLURRED. NaN where the face is
    not seen.
    """
    if not np.isfinite(points).all():
        return float("nan")
    low, high = np.maximum(points.min(axis=0), 0).astype(int), points.max(axis=0).astype(int) + 1
    grey = cv2.cvtColor(rgb[low[1]:high[1], low[0]:high[0]], cv2.COLOR_RGB2GRAY).astype(np.float32)
    if grey.size < 64:
        return 0.0
    if max(grey.shape) > FACE_SIZE:  # a large face has coarser detail; a small one is not made sharp by enlarging
        scale = FACE_SIZE / max(grey.shape)
        grey = np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32)
    # Noise is as fine as detail; a light blur takes most of it and leaves edges.
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    return float(cv2.Laplacian(smooth, cv2.CV_32F).std() / max(float(grey.std()), 1.0))


def head_yaw(R: Floats) -> Floats:
    """Degrees [T] that the head is turned to the side as seen from the camera, from world-to-camera R [T,3,3]."""
    forward = R[:, :, 2]  # the head's z in camera axes; towards the camera is -z
    return np.degrees(np.arctan2(forward[:, 0], -forward[:, 2])).astype(np.float32)


def measure(track: Track, fit: Fit, sharp: Floats, matte: Floats) -> Quality:
    """sharp [T]; matte [T,4]: opaque share of the crop, and of the fitted face; how far skull and ears reach out."""
    return Quality(face_size(track.points).astype(np.float32), sharp, head_yaw(fit.R), track.others,
                   fit.landmark_error, *matte.T)


def judge(
    quality: Quality, blendshapes: Floats, size: int, looked_at: int, without_face: int, notes: Sequence[str]
) -> Verdict:
    """The verdict on a clip of which `looked_at` pictures were examined and `without_face` had to be left out.

    notes: remarks of earlier stages (cuts, a truncated file); repeated as reasons, they do not lower the word.
    """
    found = [grade for grade in _grades(quality, blendshapes, size, looked_at, without_face) if grade[0]]
    found.sort(key=lambda grade: -grade[0])
    word = WORDS[max((grade for grade, _ in found), default=0)]
    turned = float(np.ptp(np.percentile(quality.yaw, (2, 98))))
    frontal = [f"the head turns by {turned:.0f} degrees only; the avatar will be right from that side and no other"]
    return Verdict(word, (*(text for _, text in found), *(frontal if turned < LITTLE_TURN else []), *notes))


def _grades(
    q: Quality, blendshapes: Floats, size: int, looked_at: int, without_face: int
) -> list[tuple[int, str]]:
    """(0 good, 1 usable, 2 poor; why and what helps) of every aspect."""
    frames = len(q.yaw)
    used = int((np.ptp(blendshapes[:, 1:], axis=0) > USED).sum())
    face, error = float(np.nanmedian(q.face_pixels)), float(np.median(q.landmark_error))
    blurred, turned = float((q.sharpness < BLURRED).mean()), float((np.abs(q.yaw) > PROFILE).mean())
    crowd, lost = float((q.others > 0).mean()), without_face / max(looked_at, 1)
    odd = float((q.landmark_error > ODD * max(error, 1e-6)).mean())
    missed = float((q.matte_on_face < MISSED).mean())
    return [
        (_below(frames, FEW_FRAMES), f"{frames} pictures only; film 10 seconds or more"),
        (_below(face, SMALL_FACE), f"the face is only {face:.0f} pixels high; film it larger"),
        (_above(blurred, BLURRED_SHARE), f"{blurred:.0%} of the pictures are blurred; more light, a steady camera and "
                                         "the focus on the face help"),
        (_above(lost, DROPPED_SHARE), f"the face was not found in {lost:.0%} of the pictures (turned away, covered, "
                                      "out of the picture)"),
        (_above(turned, PROFILE_SHARE), f"{turned:.0%} of the pictures show the head from the side, where landmarks "
                                        "are guessed"),
        (_above(crowd, CROWD_SHARE), f"other people are seen in {crowd:.0%} of the pictures; the largest face was "
                                     "followed"),
        (_above(error / size, MEAN_ERROR), f"the head model misses the landmarks by {error:.1f} pixels of {size}"),
        (_above(odd, ODD_SHARE), f"in {odd:.0%} of the pictures the fit is much worse than usual (something covers the "
                                 "face, or it moves fast)"),
        (_below(used, EXPRESSIONS), f"only {used} of {len(BLENDSHAPE_NAMES) - 1} expressions occur; an avatar learns "
                                    "only what it is shown: speak, smile, frown, raise the brows"),
        (_above(missed, EMPTY_MATTE), f"the matte misses a part of the face in {missed:.0%} of the pictures"),
        _outline("the skull of the head model reaches", q.skull_beyond, SKULL_BEYOND),
        _outline("the ears of the head model reach", q.ears_beyond, EARS_BEYOND),
    ]


def _outline(part: str, beyond: Floats, limits: tuple[float, float]) -> tuple[int, str]:
    """Grade of a part of the fitted head that lies beyond the person as cut out. part: with its verb."""
    seen = beyond[np.isfinite(beyond)]
    usual = float(np.median(seen)) if len(seen) else 0.0
    return _above(usual, limits), (
        f"{part} {usual:.0%} of the head's width beyond the person as cut out: either the fit is off there, or the "
        "matte lost hair or skin; look at preview.mp4")


def _above(value: float, limits: tuple[float, float]) -> int:
    return sum(value > limit for limit in limits)


def _below(value: float, limits: tuple[float, float]) -> int:
    return sum(value < limit for limit in limits)
