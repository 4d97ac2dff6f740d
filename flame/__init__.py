"""Parametric heads: loading FLAME and the open head, posing them for all frames at once, rotations, regions."""

from flame.head import JOINT_NAMES, Head, MouthPlacement, check_head_matches
from flame.load import load_head
from flame.mouth import subject_mouth
from flame.pose import Joints, PosedHead, joint_transforms, pose_feature, pose_head, posed_vertices

__all__ = [
    "JOINT_NAMES",
    "Head",
    "Joints",
    "MouthPlacement",
    "PosedHead",
    "check_head_matches",
    "joint_transforms",
    "load_head",
    "pose_feature",
    "pose_head",
    "posed_vertices",
    "subject_mouth",
]
