"""Fused blend + pose + colour, factored Adam and image loss for Gaussian blendshape avatars."""

from .adam import FactoredAdam
from .blend import blend_pose_color
from .codes import CODE_SLACK, limit_codes
from .feature_distance import feature_distance
from .half import HalfDifferences, blend_pose_color_half
from .image_loss import image_loss, ssim_map, target_image
from .play import DriveTables, FrameCodes, drive_frames, to_bytes
from .reference import (
    SH_C0,
    evaluate_sh,
    matrix_to_quaternion,
    polar3,
    quaternion_product,
    sh_basis,
)
from .tables import (
    GEOMETRY,
    LOG_SCALES,
    MAX_SH_DEGREE,
    MEANS,
    OPACITY,
    QUATS,
    SH,
    WIDTH,
    Binding,
    Differences,
    Drive,
    Factors,
    Posed,
    active_columns,
    gaussians_of_pairs,
)

__all__ = [
    "CODE_SLACK",
    "GEOMETRY",
    "LOG_SCALES",
    "MAX_SH_DEGREE",
    "MEANS",
    "OPACITY",
    "QUATS",
    "SH",
    "SH_C0",
    "WIDTH",
    "Binding",
    "Differences",
    "Drive",
    "DriveTables",
    "FactoredAdam",
    "Factors",
    "FrameCodes",
    "HalfDifferences",
    "Posed",
    "active_columns",
    "blend_pose_color",
    "blend_pose_color_half",
    "drive_frames",
    "evaluate_sh",
    "feature_distance",
    "gaussians_of_pairs",
    "image_loss",
    "limit_codes",
    "matrix_to_quaternion",
    "polar3",
    "quaternion_product",
    "sh_basis",
    "ssim_map",
    "target_image",
    "to_bytes",
]
