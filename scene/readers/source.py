"""What a reader returns: the frames of a data set and what else its files say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene.frame import FloatArray, Frame


@dataclass(frozen=True)
class MeshCounts:
    """Size of the head mesh that the tracker used: tells one head model from another."""

    vertices: int
    triangles: int


@dataclass(frozen=True, eq=False)
class Source:
    """A data set on disk, opened and checked, its images not yet decoded.

    frames: in the order of the clip; with several cameras in any order.
    background: uint8 [H,W,3] at image size, read-only, when the target is the whole photograph and the prediction is
        composited over this picture; None when the target is the head alone.
    default_test_frames: how many frames at the end this kind of data set holds out by convention, if it is long enough
        (see scene.split).
    mesh: of canonical.obj, None where there is none.
    head: name of the head model that the codes belong to, where the data set says so; None means not said (trackers
        of FLAME never say).
    teeth_offset: [3] metres from offset.txt, None where there is none.
    """

    frames: tuple[Frame, ...]
    background: NDArray[np.uint8] | None
    default_test_frames: int
    mesh: MeshCounts | None = None
    head: str | None = None
    teeth_offset: FloatArray | None = None
