"""From a head that moves before cameras to a head that stands still: the root's motion goes into the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flame import Head
from flame.codes import fit_code
from scene.frame import Frame
from scene.readers.files import camera_of
from scene.readers.source import RootPose, Source

Floats = NDArray[np.float64]


class RootJoint:
    """Where the root joint of `head` lies before posing; the regressor is linear, so no vertex is formed."""

    def __init__(self, head: Head) -> None:
        regressor = head.joint_regressor[0].double().numpy()
        self._rest = regressor @ head.v_template.double().numpy()
        self._shape = np.einsum("v,vck->ck", regressor, head.shape_dirs.double().numpy())
        self._expression = np.einsum("v,vck->ck", regressor, head.expression_dirs.double().numpy())

    def of(self, frame: Frame) -> Floats:
        """[3] metres. ValueError naming the frame's picture where a code is not of this head model."""
        codes = [fit_code(getattr(frame.tracking, name), directions.shape[1], name, str(frame.image_path))
                 for name, directions in (("shape", self._shape), ("expression", self._expression))]
        return np.asarray(self._rest + self._shape @ codes[0] + self._expression @ codes[1])


def placed(source: Source, head: Head, roots: Sequence[RootPose]) -> Source:
    """`source` with a head that stands still, from one whose root moves: what readers leave as `Source.pending`.

    With x = Rr (v - J) + J + tr in the world and c = R x + t in a camera, head space v is seen by R Rr and
    R (J - Rr J + tr) + t. roots: one a frame.
    """
    joint = RootJoint(head)

    def seen(frame: Frame, root: RootPose) -> Frame:
        camera, J = frame.camera, joint.of(frame)
        R = camera.R.astype(np.float64)
        t = R @ (J - root.R @ J + root.t) + camera.t
        return replace(frame, camera=camera_of(R @ root.R, t, camera.K, camera.width, camera.height))

    return replace(source, frames=tuple(map(seen, source.frames, roots)))


def root_seen(frame: Frame, R: Floats, t: Floats, J: Floats) -> RootPose:
    """The root pose that shows the head to a camera R [3,3], t [3] as `frame` of a complete source sees it.

    J: the frame's root joint.
    """
    turn = R.T @ frame.camera.R
    return RootPose(turn, R.T @ (frame.camera.t - t) - J + turn @ J)


def camera_before(frame: Frame, root: RootPose, J: Floats) -> tuple[Floats, Floats]:
    """The camera R, t that sees the head in root pose `root` as `frame` of a complete source does."""
    R = frame.camera.R @ root.R.T
    return R, frame.camera.t - R @ (J - root.R @ J + root.t)
