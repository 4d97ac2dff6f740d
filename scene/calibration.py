"""A tracker's systematic errors as a function of what it says: learnt from one clip, for others of the same person.

A tracker places the head too far when the jaw opens, turns it when it looks aside. Such errors follow from the tracked
pose and codes, so that a linear map of these, learnt from the corrections of the training frames
(training/calibration.py), predicts the correction of any other frame without its picture.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flame.rotations import turn_and_place
from scene.corrections import Columns
from scene.rig import Codes

PREFIX = "calibration."  # of its tensors in a file
POSE_FEATURES = 14  # besides the K expression codes: jaw (6), eyelids (2), turn (3), place (3)


def tracked_features(codes: Codes, R: Tensor, t: Tensor, expressions: int, facing: Tensor, center: Tensor) -> Tensor:
    """What a tracker says of T frames: float64 [T,D], D = K + `POSE_FEATURES`, on the CPU like all arguments.

    The first K = `expressions` codes, jaw, eyelids, turn of the head (R [T,3,3]) against `facing` [3,3] as a rotation
    vector, and place of its centre (`center` [3], metres) before the camera, whose t is [T,3].
    """
    return torch.cat([codes.expression[:, :expressions].double(), codes.jaw.double(), codes.eyelids.double(),
                      *turn_and_place(R, t, facing, center)], dim=1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicts corrections [T,W] (scene/corrections.py) from the tracked features f [T,D], linearly between limits:

        clamp((clamp(f, feature_limits) - feature_mean) @ weights, limits)

    K: expressions that move the Gaussians; D = K + 14, W = `Columns(K).width`. weights [D,W]; feature_mean [D];
    feature_limits [2,D] and limits [2,W]: lower and upper; facing [3,3] and center [3] (metres) of `tracked_features`.
    All float64, CPU. camera: name of the camera in whose axes turn and shift are told, "" where there is only one.
    """

    weights: Tensor
    feature_mean: Tensor
    feature_limits: Tensor
    limits: Tensor
    facing: Tensor
    center: Tensor
    camera: str = ""

    @property
    def expressions(self) -> int:
        """K."""
        return len(self.weights) - POSE_FEATURES

    def corrections(self, codes: Codes, R: Tensor, t: Tensor) -> Tensor:
        """Of T frames with these codes, R [T,3,3] and t [T,3], as the tracker says (CPU): float64 [T,W]."""
        told = tracked_features(codes, R, t, self.expressions, self.facing, self.center)
        wanted = (told.clamp(*self.feature_limits) - self.feature_mean) @ self.weights
        return wanted.clamp(*self.limits)

    def tensors(self) -> dict[str, Tensor]:
        """All but the camera, by the names that they have in a file."""
        return {PREFIX + item.name: getattr(self, item.name) for item in fields(self) if item.name != "camera"}

    @staticmethod
    def of_tensors(tensors: dict[str, Tensor], camera: str) -> Calibration | None:
        """What `tensors` gave, None where there is nothing of it.

        ValueError naming the tensor that is missing, of a wrong shape or type, or not finite.
        """
        mine = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not mine:
            return None
        told = mine["weights"].shape[0] if "weights" in mine and mine["weights"].ndim else 0
        count = max(told - POSE_FEATURES, 0)
        rows, columns = count + POSE_FEATURES, Columns(count).width
        wanted = {"weights": [rows, columns], "feature_mean": [rows], "feature_limits": [2, rows],
                  "limits": [2, columns], "facing": [3, 3], "center": [3]}
        if mine.keys() != wanted.keys():
            raise ValueError(f"calibration: wanted {', '.join(sorted(wanted))}, got {', '.join(sorted(mine))}")
        for name, shape in wanted.items():
            value = mine[name]
            if list(value.shape) != shape or value.dtype != torch.float64:
                raise ValueError(f"{PREFIX}{name}: wanted {torch.float64} {shape}, got {value.dtype} "
                                 f"{list(value.shape)}")
            if not torch.isfinite(value).all():
                raise ValueError(f"{PREFIX}{name}: holds a number that is not finite")
        return Calibration(**mine, camera=camera)
