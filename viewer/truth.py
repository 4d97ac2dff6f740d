"""The pictures of the data set, when it is still there, for the comparison with the avatar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from arguments import DataSettings
from scene.clip import Clip
from scene.data import open_pictures
from scene.recording import NONE
from utils.images import letterbox


class GroundTruth:
    """Frames of the data set that an avatar was trained on, decoded when asked for."""

    def __init__(self, data: DataSettings, clip: Clip) -> None:
        """ValueError or OSError names what is missing, or that the data set is another one than the avatar's."""
        # All frames are as good here.
        data = replace(data, cache="stream", split="tail", test_frames=0, test_cameras=(NONE,))
        self._dataset = open_pictures(data)
        got = self._dataset.frame_count, self._dataset.width, self._dataset.height
        wanted = len(clip), clip.width, clip.height
        if got != wanted:
            raise ValueError(f"{data.source_path}: not the data set of this avatar: wanted {wanted[0]} frames of "
                             f"{wanted[1]} x {wanted[2]} pixels, got {got[0]} of {got[1]} x {got[2]}")

    def over(self, frame: int, background: tuple[float, float, float]) -> NDArray[np.float32]:
        """A frame in [0,1], [H,W,3], its head over a plain background. ValueError when its file is damaged.

        Where pictures differ in size, it lies in the middle of the clip's.
        """
        size = self._dataset.width, self._dataset.height
        rgba = letterbox(self._dataset.rgba(frame), size).astype(np.float32) / 255
        alpha = rgba[..., 3:]
        return (rgba[..., :3] * alpha + np.asarray(background) * (1 - alpha)).astype(np.float32)
