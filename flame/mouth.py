"""Where the teeth of a head go: from its teeth meshes, or from the place where its lips meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from flame.head import Head, MouthPlacement
from flame.regions import JAW, Floats, Geometry, Indices, lip_seam

# Proportions of an adult's front teeth to the width of the lip seam (about 43 mm), checked against the open head's
# modelled teeth; see tests/test_flame_regions.py.
_ARCH_WIDTH, _ARCH_DEPTH = 1.1, 0.45
_UPPER_HEIGHT, _LOWER_HEIGHT = 0.25, 0.3
_BEHIND_LIPS = 0.25


def mouth_from_lips(geometry: Geometry) -> MouthPlacement:
    """Placement for a head without teeth meshes, in proportion to its lip seam.

    The teeth meet at the height of the seam's middle third, their front lies a quarter of the seam's width behind its
    frontmost point. The lower teeth take the mean skinning weights, normalised, of the 8 nearest skin vertices whose
    jaw weight is at least 90 % of the largest one: teeth sit in the bone, lips and cheeks beside them follow less.
    """
    seam = lip_seam(geometry)
    width = float(np.ptp(seam[:, 0]))
    middle = 0.5 * (seam[:, 0].min() + seam[:, 0].max())
    bite = seam[np.abs(seam[:, 0] - middle) < width / 6, 1].mean()
    front = seam[:, 2].max() - _BEHIND_LIPS * width
    depth, lower_height = _ARCH_DEPTH * width, _LOWER_HEIGHT * width
    jaw_weight = np.where(geometry.skin, geometry.weights[:, JAW], 0.0)
    jaw_led = np.flatnonzero(jaw_weight >= 0.9 * jaw_weight.max())
    place = np.array([middle, bite - 0.5 * lower_height, front])
    nearest = cKDTree(geometry.vertices[jaw_led]).query(place, k=min(8, len(jaw_led)))[1]
    weights = geometry.weights[jaw_led[np.atleast_1d(nearest)]].mean(0)
    center = np.array([middle, bite, front - depth])
    return _placement(center, _ARCH_WIDTH * width, depth, _UPPER_HEIGHT * width, lower_height, weights)


def mouth_from_teeth(geometry: Geometry, upper: Indices, lower: Indices) -> MouthPlacement:
    """Placement that encloses teeth meshes, given by their vertex ids; the lower teeth's own weights, averaged."""
    above, below = geometry.vertices[upper], geometry.vertices[lower]
    both = np.concatenate([above, below])
    low, high = both.min(0), both.max(0)
    bite = 0.5 * (above[:, 1].min() + below[:, 1].max())
    center = np.array([0.5 * (low[0] + high[0]), bite, low[2]])
    weights = geometry.weights[lower].mean(0)
    return _placement(center, high[0] - low[0], high[2] - low[2], high[1] - bite, bite - low[1], weights)


def subject_mouth(head: Head, neutral: Tensor) -> MouthPlacement:
    """The placement for a subject: `head.mouth`, which is the template's, moved and scaled with the mouth region.

    neutral: [V,3] the subject at rest. The centre follows the region's mean, the sizes the ratio of its widths.
    """
    lips = head.regions["mouth"]
    before, after = head.v_template[lips], neutral[lips].to(head.v_template)
    ratio = float((after[:, 0].max() - after[:, 0].min()) / (before[:, 0].max() - before[:, 0].min()))
    mouth = head.mouth
    return replace(
        mouth,
        center=after.mean(0) + ratio * (mouth.center - before.mean(0)),
        width=ratio * mouth.width,
        depth=ratio * mouth.depth,
        upper_height=ratio * mouth.upper_height,
        lower_height=ratio * mouth.lower_height,
    )


def _placement(
    center: Floats, width: float, depth: float, upper_height: float, lower_height: float, weights: Floats
) -> MouthPlacement:
    return MouthPlacement(
        center=torch.from_numpy(center).float(),
        width=float(width),
        depth=float(depth),
        upper_height=float(upper_height),
        lower_height=float(lower_height),
        lower_weights=torch.from_numpy(weights / weights.sum()).float(),
    )
