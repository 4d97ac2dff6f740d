#!/usr/bin/env python3
"""Landmarks of a film, found beforehand: python -m online.recorded_landmarks FILM -o FILE.npz  (--help).

live.py --video FILM --landmarks FILE.npz then needs no MediaPipe, as on a machine where it cannot be installed.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from arguments import parse_flags
from tracking.detector import Face, MediaPipeDetector, arrays_of_faces, faces_of_arrays
from tracking.footage import ByteImage
from utils.arrays import read_npz, write_npz

log = logging.getLogger("landmarks")
COLUMNS = ("frame", "points", "blendshapes", "pose", "fps", "frames")


@dataclass(frozen=True)
class RecordSettings:
    """Find the faces of a film for live.py --landmarks."""

    video: tyro.conf.Positional[Path]
    """The film."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write, .npz."""
    face_model: Path | None = None
    """MediaPipe's face_landmarker.task; None = data/mediapipe, downloaded once."""


class RecordedDetector:
    """A detector that remembers a film: it answers by the time of a picture. ValueError for a file that is none."""

    def __init__(self, path: Path) -> None:
        try:
            saved = read_npz(path)
            file = {name: saved[name] for name in COLUMNS}
            found = zip(file["frame"], faces_of_arrays(file), strict=True)
            self._fps = float(file["fps"])
            self._faces: dict[int, list[Face]] = {}
            for frame, face in found:
                self._faces.setdefault(int(frame), []).append(face)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"--landmarks {path}: wanted a file of python -m online.recorded_landmarks, got something "
                             f"else ({error})") from None

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        return self._faces.get(round(time * self._fps), [])


def record(settings: RecordSettings) -> int:
    """Write the file; returns in how many pictures a face was found. ValueError when the film cannot be read."""
    film = cv2.VideoCapture(str(settings.video))
    if not film.isOpened():
        raise ValueError(f"{settings.video}: wanted a film, got something that OpenCV cannot open")
    fps, found, number = film.get(cv2.CAP_PROP_FPS) or 25.0, list[tuple[int, Face]](), 0
    with MediaPipeDetector(settings.face_model) as detector, tqdm(unit="picture", desc="Finding the face") as bar:
        while (picture := film.read())[0]:
            rgb = np.asarray(cv2.cvtColor(picture[1], cv2.COLOR_BGR2RGB), np.uint8)
            found += [(number, face) for face in detector.detect(rgb, number / fps)]
            number += 1
            bar.update()
    if not found:
        raise ValueError(f"{settings.video}: no face was found in any of {number} pictures")
    arrays = arrays_of_faces([face for _, face in found])
    numbers = np.array([number for number, _ in found], np.int64)
    write_npz(settings.output, {**arrays, "frame": numbers, "fps": np.array(fps), "frames": np.array(number)})
    return len({number for number, _ in found})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = parse_flags(RecordSettings, "online.recorded_landmarks")
    try:
        log.info("%s: faces in %d pictures", settings.output, record(settings))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"online.recorded_landmarks: {error}")


if __name__ == "__main__":
    main()
