"""A face in pictures, as codes of the open head: MediaPipe's scores and pose, steadied by One Euro filters.

Quick and without a fit: expressions are the detector's scores. track.py fits the head to the whole clip instead, which
is slower and better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flame.rotations import matrix_from_axis_angle, matrix_to_axis_angle
from reenactment.arkit import arkit_head, codes_of_scores
from reenactment.motion import FLIP, HeadMotion
from reenactment.smoothing import OneEuro
from scene.rig import Codes
from tracking.detector import Detector, Face
from tracking.landmarks import face_size
from tracking.records import BLENDSHAPE_NAMES

# Of scores (0 to 1), rotation vectors (radians) and positions (metres). Eyes blink within 0.1 s, hence the cutoffs of
# scores; heads are heavy. Speeds: a full blink in 0.1 s raises 3 Hz to 13 Hz, a head turning 1 rad/s 1 Hz to 5 Hz.
SCORE_FILTER, TURN_FILTER, PLACE_FILTER = (3.0, 1.0), (1.0, 4.0), (1.0, 10.0)
FACE_HEIGHT = 0.125  # metres from forehead to chin (MediaPipe's points 10 and 152) of a grown face


@dataclass(frozen=True, eq=False)
class Seen:
    """One frame: codes [1,...] of the open head and the head's motion [1] (focal: that of MediaPipe's camera)."""

    codes: Codes
    motion: HeadMotion


class FaceReader:
    """Reads the largest face of pictures that come in order. Where none is seen, the last frame is repeated.

    lost: in how many pictures no face was seen.
    """

    def __init__(self, detector: Detector) -> None:
        self.lost = 0
        self._detector = detector
        self.head = arkit_head()
        self._scores, self._turn, self._place = OneEuro(*SCORE_FILTER), OneEuro(*TURN_FILTER), OneEuro(*PLACE_FILTER)
        self._first: torch.Tensor | None = None
        self._last: Seen | None = None

    def read(self, rgb: NDArray[np.uint8], time: float) -> Seen | None:
        """The face in a picture [H,W,3] at `time` seconds; None as long as none was ever seen."""
        faces = self._detector.detect(rgb, time)
        if not faces:
            self.lost += 1
            return self._last
        face = max(faces, key=lambda found: float(face_size(found.points)))
        self._last = Seen(self._codes(face, time), self._motion(face, rgb.shape[:2], time))
        return self._last

    def _codes(self, face: Face, time: float) -> Codes:
        scores = torch.from_numpy(self._scores(face.blendshapes.astype(np.float64), time)).float()
        return codes_of_scores(self.head, {name: scores[k:k + 1] for k, name in enumerate(BLENDSHAPE_NAMES)})

    def _motion(self, face: Face, size: tuple[int, ...], time: float) -> HeadMotion:
        """Turn from MediaPipe's pose; place from the landmarks, since the pose assumes a camera that nobody has."""
        height, width = size
        turn = FLIP @ torch.from_numpy(face.pose[:3, :3]).float()
        if self._first is None:
            self._first = turn
        # Against the first turn, so that the rotation vector stays far from pi.
        vector = self._turn(matrix_to_axis_angle(turn @ self._first.T).double().numpy(), time)
        R = matrix_from_axis_angle(torch.from_numpy(vector).float()) @ self._first
        focal = 2.0 * width
        away = FACE_HEIGHT * focal / max(float(face_size(face.points)), 1e-3)
        middle = (face.points[:, :2].mean(0) - (0.5 * width, 0.5 * height)) * away / focal
        place = self._place(np.array([*middle, away]), time)
        return HeadMotion(R[None], torch.from_numpy(place).float()[None], torch.tensor([focal / width]))
