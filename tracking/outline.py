"""How far the fitted head reaches out of the person as the matte shows it: what landmarks cannot tell."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.mesh_view import EARS, SKULL, Drawing

RIM = 98.0      # percent: the outermost pixels of the mesh are those of single triangles
FEW_PIXELS = 8  # of a part that is hardly seen nothing is said


def reach_out(drawing: Drawing, opaque: NDArray[np.bool_]) -> tuple[float, float]:
    """How far skull and ears of the mesh reach beyond the matte, in units of the head: a well placed head lies within
    hair and skin, so both are about 0. NaN for a part that is not seen, or where the matte is empty.

    drawing: [S,S]. opaque [S,S]: alpha of at least one half. The unit is the square root of the mesh's area above the
    neck, about the width of the head.
    """
    unit = float(np.sqrt(drawing.head.sum()))
    if unit == 0 or not opaque.any():
        return float("nan"), float("nan")
    beyond = cv2.distanceTransform((~opaque).astype(np.uint8), cv2.DIST_L2, 3) / unit
    skull, ears = (_rim(beyond[drawing.head & (drawing.part == part)]) for part in (SKULL, EARS))
    return skull, ears


def _rim(values: NDArray[np.floating]) -> float:
    return float(np.percentile(values, RIM)) if len(values) >= FEW_PIXELS else float("nan")
