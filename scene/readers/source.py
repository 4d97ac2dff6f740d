"""What a reader returns: the frames of a data set and what else its files say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flame import Head
from scene.frame import FloatArray, Frame


@dataclass(frozen=True)
class MeshCounts:
    """Size of the head mesh that the tracker used: tells one head model from another."""

    vertices: int
    triangles: int


@dataclass(frozen=True, eq=False)
class RootPose:
    """The pose of the head model's root in the world of the cameras: x = R (v - J) + J + t, metres.

    J: the root joint of the posed identity before posing, which the head model gives. R [3,3], t [3]: float64.
    """

    R: NDArray[np.float64]
    t: NDArray[np.float64]


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
    pending: what is left to do with (this source, the head model): putting the motion of the model's root into the
        cameras, fitting codes to meshes. `completed` does it; before, frames are not what they say. None: nothing.
    static_offset: [V,3] metres, what the identity adds to the head model's template besides its shape
        codes; None: nothing.
    """

    frames: tuple[Frame, ...]
    background: NDArray[np.uint8] | None
    default_test_frames: int
    mesh: MeshCounts | None = None
    head: str | None = None
    teeth_offset: FloatArray | None = None
    pending: Callable[[Source, Head], Source] | None = None
    static_offset: FloatArray | None = None

    def completed(self, head: Head) -> Source:
        """This source with nothing pending. head: the model of the tracking, its static offset applied.

        Raises ValueError naming a file where the codes are not of that model.
        """
        return self if self.pending is None else self.pending(replace(self, pending=None), head)
