"""Pictures for people: side by side, error maps with their scale, and which frames to show."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

ERROR_LIMIT = 0.25  # error at the end of the scale; fixed, so that pictures of different frames and runs compare
SCALE_TICKS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
SCALE_WIDTH = 56  # pixels of the colour bar with its numbers
CAPTION_HEIGHT = 20  # pixels above the panels
WIDEST_VIDEO = 2560  # pixels: four panels of 512 with their scale as they are, larger ones reduced
PANELS = ("ground truth", "prediction", "error", "mesh")

Image = NDArray[np.uint8]
Floats = NDArray[np.floating]


def to_bytes(image: Floats) -> Image:
    """[0,1] -> uint8, rounded and clipped; any shape."""
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def over(premultiplied: Floats, alpha: Floats, background: float) -> Image:
    """A picture [H,W,3] on black with its alpha [H,W], on a grey `background` in [0,1] instead: uint8 [H,W,3]."""
    return to_bytes(premultiplied + (1 - alpha[..., None]) * background)


def error_map(prediction: Floats, target: Floats) -> Image:
    """Absolute error [H,W,3] averaged over channels, 0 to `ERROR_LIMIT`, in colours of rising lightness (inferno)."""
    error = np.abs(prediction - target).mean(axis=2)
    return colorize(error / ERROR_LIMIT)


def colorize(values: Floats) -> Image:
    """[H,W] in [0,1] -> uint8 RGB [H,W,3]; inferno is perceptually ordered: more error is always brighter."""
    return cv2.cvtColor(cv2.applyColorMap(to_bytes(values), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(np.uint8)


def css_colors(count: int = 9) -> list[str]:
    """The error map's colours as CSS writes them, from no to largest error, evenly spaced."""
    return ["#" + bytes(color).hex() for color in colorize(np.linspace(0, 1, count)[None])[0]]


def color_scale(height: int) -> Image:
    """The error map's colours with their numbers, uint8 [height, SCALE_WIDTH, 3], largest error on top."""
    bar = np.zeros((height, SCALE_WIDTH, 3), np.uint8)
    margin = min(10, height // 4)
    ramp = np.linspace(1, 0, max(2, height - 2 * margin))[:, None].repeat(10, axis=1)
    bar[margin : margin + len(ramp), 4:14] = colorize(ramp)[: height - margin]
    for tick in SCALE_TICKS:
        y = margin + round((1 - tick / ERROR_LIMIT) * (len(ramp) - 1))
        cv2.line(bar, (14, y), (17, y), (200, 200, 200), 1)
        cv2.putText(bar, f"{tick:.2f}", (20, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (200, 200, 200), 1, cv2.LINE_AA)
    return bar


def side_by_side(panels: Sequence[Image], index: int) -> Image:
    """Panels [H,W,3] of one size in a row under their names, the error scale and the frame's number at the right."""
    joined = np.concatenate([*panels, color_scale(panels[0].shape[0])], axis=1)
    caption = np.full((CAPTION_HEIGHT, joined.shape[1], 3), 24, np.uint8)
    labels = [*PANELS[: len(panels)], f"{index:05d}"]
    for position, label in enumerate(labels):
        at = (position * panels[0].shape[1] + 6, CAPTION_HEIGHT - 6)
        cv2.putText(caption, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([caption, joined])


def for_video(picture: Image) -> Image:
    """The picture, made smaller where it is wider than common hardware decoders play."""
    if picture.shape[1] <= WIDEST_VIDEO:
        return picture
    size = WIDEST_VIDEO, round(picture.shape[0] * WIDEST_VIDEO / picture.shape[1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def spread_frames(indices: Sequence[int], count: int) -> list[int]:
    """`count` of `indices` evenly over their range; independent of scores, hence the same for two runs."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def select_frames(scores: dict[int, float], each: int) -> dict[str, list[int]]:
    """Frame numbers to show: the `each` best, middle and worst by score (higher is better), none twice.

    Neighbours in a clip look alike, so within a group frames keep a distance from one another while there are enough.
    With fewer frames than asked for, the worst take precedence over the best and these over the middle.
    """
    order = sorted(scores)
    place = {index: position for position, index in enumerate(order)}
    apart = max(1, len(order) // (4 * each))
    ranked = sorted(order, key=lambda index: scores[index])
    middle = scores[ranked[len(ranked) // 2]]
    taken: set[int] = set()

    def pick(candidates: list[int]) -> list[int]:
        free = [index for index in candidates if index not in taken]
        chosen: list[int] = []
        for distance in (apart, 1):
            for index in free:
                if len(chosen) < each and all(abs(place[index] - place[other]) >= distance for other in chosen):
                    chosen.append(index)
        taken.update(chosen)
        return chosen

    worst, best = pick(ranked), pick(ranked[::-1])
    median = pick(sorted(order, key=lambda index: abs(scores[index] - middle)))
    return {"best": best, "median": median, "worst": worst}
