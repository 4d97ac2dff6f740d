"""The picture as a cost term: every point of the face should show, in every frame, what it shows on average.

Compared is a band of spatial frequencies of the brightness, not the brightness: shading that comes and goes with the
pose is mostly broad, while pores, brows, lips and nostrils are in the band and stay with the skin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flame import Head
from tracking.bundle import State, parts, project
from tracking.surface import SurfacePoints, turns_of

Images = Callable[[int], NDArray[np.uint8]]

BAND = 4.0         # the wide blur that is subtracted, in units of the narrow one
CUTOFF = 2.0       # residuals beyond twice the usual one belong to something else than the skin
MIN_FACING = 0.35  # cosine; skin seen flatter than 70 degrees is foreshortened too far to compare
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
QUANTUM = 0.3       # grey levels: what rounding to bytes leaves; flat pictures have no residual to take a scale from
WINDOW_MARGIN = 2   # pixels about a sample: its slope is measured half a pixel beside it, by four neighbours


@dataclass(eq=False)
class PhotometricTerm:
    """Band-passed brightness at the points minus its mean over the clip, over its usual size (a `bundle.DataTerm`).

    pictures [T,1,S,S] float16; reference [L]; scale [L]: usual size of the residual; weight [T,L], 0 where hidden.
    """

    points: SurfacePoints
    offset: Tensor
    pictures: Tensor
    reference: Tensor
    scale: Tensor
    weight: Tensor
    center: Tensor
    camera: int = 0
    cutoff: float = CUTOFF

    @classmethod
    def empty(cls, points: SurfacePoints, center: Tensor, camera: int = 0) -> PhotometricTerm:
        none = points.rest.new_zeros(0)
        return cls(points, torch.zeros_like(points.rest), none, none, none, none, center, camera)

    def residual(self, frames: slice, pixels: Tensor, want_slope: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        pictures, pixels = window(self.pictures[frames], pixels)
        value = ((sample(pictures, pixels) - self.reference) / self.scale)[..., None]
        if not want_slope:
            return value, None, self.weight[frames]
        half = 0.5 * torch.eye(2, device=pixels.device)
        slope = [sample(pictures, pixels + step) - sample(pictures, pixels - step) for step in half]
        return value, (torch.stack(slope, -1) / self.scale[:, None])[..., None, :], self.weight[frames]

    def learn(self, state: State, facing: Tensor, weight: float) -> None:
        """Take reference, usual residual and weights from the pictures as `state` places the points.

        facing [T,L]: cosine between skin and view, or not positive where hidden.
        """
        values = self.values(state)
        self.weight = torch.where(facing > MIN_FACING, weight * facing, 0)
        hidden = self.weight <= 0
        self.reference = values.masked_fill(hidden, torch.nan).nanmedian(0).values.nan_to_num(0)
        error = (values - self.reference).abs().masked_fill(hidden, torch.nan)
        usual = 1.48 * error.nanmedian(0).values  # of a normal distribution, the standard deviation
        self.scale = usual.nan_to_num(1).clamp_min(max(float(usual.nanmedian()) / 2, QUANTUM))

    def values(self, state: State) -> Tensor:
        """What the pictures show at the points, [T,L]."""
        rows = []
        for part in parts(len(state.t)):
            codes = state.split(part)
            points = self.points.place(state.shape, codes, turns_of(codes))
            pixels = project(state, points, self, part)[0]
            rows.append(sample(*window(self.pictures[part], pixels)))
        return torch.cat(rows)


def face_points(
    head: Head, n_shape: int, limit: int, device: torch.device | str, every: int = 1
) -> tuple[SurfacePoints, Tensor]:
    """Middles of triangles of the face's skin, about `limit` or all, of these every second, third, ..., and the
    triangles' vertex numbers [L,3].
    """
    inside = torch.zeros(head.n_vertices, dtype=torch.bool)
    inside[head.regions["face"]] = True
    surface = head.faces[head.regions["surface_faces"]]
    chosen = head.regions["surface_faces"][inside[surface].all(1)]
    chosen = chosen[:: max(1, round(len(chosen) / limit))][::every]
    third = np.full((len(chosen), 3), 1 / 3)
    return SurfacePoints(head, chosen.numpy(), third, n_shape, device), head.faces[chosen].to(device)


def band_pass(image: NDArray[np.uint8], sigma: float) -> Tensor:
    """Brightness float16 [S,S] between the blurs sigma and BAND * sigma (pixels), in grey levels."""
    red, green, blue = cv2.split(image)
    both = cv2.addWeighted(red, LUMA[0], green, LUMA[1], 0, dtype=cv2.CV_32F)  # floats, which bytes would round
    grey = np.asarray(cv2.scaleAdd(blue.astype(np.float32), LUMA[2], both), np.float32)
    band = cv2.subtract(cv2.GaussianBlur(grey, (0, 0), sigma), wide_blur(grey, BAND * sigma))
    return torch.from_numpy(band).half()  # NumPy takes ten times as long


def wide_blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """An image [H,W] blurred by sigma pixels; where that is much, it is blurred smaller by a power of two."""
    factor = 2 ** max(0, int(np.log2(sigma / 2)))
    if factor == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    height, width = image.shape
    small = cv2.resize(image, (-(-width // factor), -(-height // factor)), interpolation=cv2.INTER_AREA)
    # The averages and the straight lines between them blur as well: variances (f^2 - 1) / 12 and f^2 / 6.
    left = sigma**2 - (factor**2 - 1) / 12 - factor**2 / 6
    small = cv2.GaussianBlur(small, (0, 0), left**0.5 / factor)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def window(pictures: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The part of pictures [C,1,S,S] that holds the pixels [C,L,2] and their neighbours, as float32; the pixels in it.

    Faces fill a small part of the pictures, and to convert all of them would take longer than to sample.
    """
    size = pictures.shape[-1]
    low, high = (value.clamp(0, size).nan_to_num(0).tolist() for value in (
        pixels.amin((0, 1)).floor() - WINDOW_MARGIN, pixels.amax((0, 1)).ceil() + WINDOW_MARGIN))
    (x, y), (right, bottom) = map(int, low), map(int, high)
    if right - x < 1 or bottom - y < 1:
        return pictures.float(), pixels
    return pictures[:, :, y:bottom, x:right].float(), pixels - pixels.new_tensor([x, y])


def sample(pictures: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values [C,L] of pictures [C,1,H,W] at pixels [C,L,2]; zero outside."""
    grid = 2 * pixels / pixels.new_tensor([pictures.shape[-1], pictures.shape[-2]]) - 1
    return F.grid_sample(pictures, grid[:, None], align_corners=False)[:, 0, 0]
