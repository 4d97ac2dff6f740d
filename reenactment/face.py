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


class Steady:
    """One Euro filters of a face that is followed live."""

    def __init__(self) -> None:
        self._scores, self._turn, self._place = OneEuro(*SCORE_FILTER), OneEuro(*TURN_FILTER), OneEuro(*PLACE_FILTER)
        self._first: torch.Tensor | None = None

    def scores(self, values: NDArray[np.floating], time: float) -> torch.Tensor:
        """Scores, filtered, float32."""
        return torch.from_numpy(self._scores(values.astype(np.float64), time)).float()

    def turn(self, R: torch.Tensor, time: float) -> torch.Tensor:
        """A rotation [3,3], filtered."""
        if self._first is None:
            self._first = R
        # Against the first turn, so that the rotation vector stays far from pi.
        vector = self._turn(matrix_to_axis_angle(R @ self._first.T).double().numpy(), time)
        return matrix_from_axis_angle(torch.from_numpy(vector).float()) @ self._first

    def place(self, position: NDArray[np.float64], time: float) -> torch.Tensor:
        """A position [3] in metres, filtered, float32."""
        return torch.from_numpy(self._place(position, time)).float()


class FaceReader:
    """Reads the largest face of pictures that come in order. Where none is seen, the last frame is repeated.

    lost: in how many pictures no face was seen.
    """

    def __init__(self, detector: Detector) -> None:
        self.lost = 0
        self._detector = detector
        self.head = arkit_head()
        self._steady = Steady()
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
        scores = self._steady.scores(face.blendshapes, time)
        return codes_of_scores(self.head, {name: scores[k:k + 1] for k, name in enumerate(BLENDSHAPE_NAMES)})

    def _motion(self, face: Face, size: tuple[int, ...], time: float) -> HeadMotion:
        """Turn from MediaPipe's pose; place from the landmarks, since the pose assumes a camera that nobody has."""
        height, width = size
        R = self._steady.turn(FLIP @ torch.from_numpy(face.pose[:3, :3]).float(), time)
        focal = 2.0 * width
        away = FACE_HEIGHT * focal / max(float(face_size(face.points)), 1e-3)
        middle = (face.points[:, :2].mean(0) - (0.5 * width, 0.5 * height)) * away / focal
        place = self._steady.place(np.array([*middle, away]), time)
        return HeadMotion(R[None], place[None], torch.tensor([focal / width]))
