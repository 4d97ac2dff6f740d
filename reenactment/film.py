"""Pictures of an avatar, many frames in a row, into a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gaussian_renderer import Cameras
from player import Player
from player.fast import FastRenderer
from reenactment.driver import Pictures
from scene.rig import Codes

ByteImage = NDArray[np.uint8]
BATCH = {"cuda": 8, "cpu": 1}  # frames drawn in one call: a GPU is idle with one, a CPU keeps its cache


class Painter:
    """Draws codes from cameras of one size as uint8 RGB."""

    def __init__(self, player: Player, width: int, height: int, background: Sequence[float], batch: int = 0) -> None:
        """batch: frames a call at most; 0 as suits the device. ValueError for a background that is no colour."""
        if len(background) != 3 or not all(0 <= value <= 1 for value in background):
            raise ValueError(f"--background: wanted three numbers from 0 to 1 (red, green, blue), got {background}")
        on_gpu = player.device.type == "cuda"
        self.batch = batch or BATCH["cuda" if on_gpu else "cpu"]
        self._renderer = FastRenderer(player, width, height, self.batch, half=on_gpu, as_bytes=True)
        self._background = torch.tensor(list(background), dtype=torch.float32)

    def paint(self, codes: Codes, cameras: Cameras) -> ByteImage:
        """[n,H,W,3] of up to `batch` frames (CPU)."""
        drawn = self._renderer.render(codes, cameras, self._background).bytes
        assert drawn is not None
        return drawn.cpu().numpy().copy()

    def paint_all(self, codes: Codes, cameras: Cameras) -> Iterator[ByteImage]:
        """[H,W,3], frame by frame, any number of them."""
        for start in range(0, len(codes), self.batch):
            part = slice(start, start + self.batch)
            view = Cameras(cameras.R[part], cameras.t[part], cameras.K[part], cameras.width, cameras.height)
            yield from self.paint(codes.at(part), view)


def write_film(path: Path, pictures: Iterator[ByteImage], count: int, fps: float) -> None:
    """An MP4 of pictures as they come, with a progress bar; it appears when all are there."""
    from utils.video import write_video  # here, so that drawing alone, as live.py does, needs no PyAV

    with write_video(path, fps) as add:
        for picture in tqdm(pictures, total=count, unit="frame", desc=path.name):
            add(picture)


def beside(left: Pictures, right: Iterator[ByteImage]) -> Iterator[ByteImage]:
    """Pairs of pictures; the left ones are brought to the height of the right ones."""
    for first, second in zip(left(), right, strict=True):
        height = second.shape[0]
        width = max(1, round(first.shape[1] * height / first.shape[0]))
        shrinks = height < first.shape[0]
        fitted = cv2.resize(first, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        yield np.hstack([np.asarray(fitted, np.uint8), second])


def labelled(pictures: Iterator[ByteImage], labels: Sequence[str]) -> Iterator[ByteImage]:
    """Pictures with a line of text at the bottom, dark on light pictures and light on dark ones."""
    for picture, label in zip(pictures, labels, strict=True):
        drawn = picture.copy()
        height = drawn.shape[0]
        size = max(0.35, height / 600)
        place = (round(0.03 * height), round(0.96 * height))
        level = 0 if drawn[round(0.9 * height):, :drawn.shape[1] // 2].mean() > 127 else 255
        cv2.putText(drawn, label, place, cv2.FONT_HERSHEY_SIMPLEX, size, (level, level, level), 1, cv2.LINE_AA)
        yield drawn
