"""The settings of a training run. Each field: default, unit, reason; its name is its flag.

Defaults are those of the published method unless the comment says otherwise. Iteration counts of the schedule are for
the method's 40,000 steps; a run with another number of `--iterations` goes through the whole schedule in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Alias = tyro.conf.arg
METHOD_ITERATIONS = 40_000


@dataclass(frozen=True)
class DataSettings:
    """What is read from disk and how it is split."""

    source_path: Annotated[Path, Alias(aliases=["-s"])]
    """Data set folder."""
    layout: str = "auto"
    """How the folder is laid out: insta, nerfbs, hr, cameras, vhap, nersemble, imavatar, nerface,
    insta_transforms, codes (docs/data.md); auto looks at what is there."""
    use_nerfBS: bool = False
    """The same as --layout nerfbs: whole-image targets, masks in image_mask/, background bc.jpg."""
    use_HR: bool = False
    """The same as --layout hr: images from images.HQ/."""
    head: str = "auto"
    """Head model of the tracking: auto (what the data say, else FLAME), open, flame2020, flame2023, or a FLAME .pkl or
    head .npz."""
    resolution: Annotated[int, Alias(aliases=["-r"])] = -1
    """Training size: -1 or 1 full, 2/4/8 a divisor, larger values a width in pixels."""
    split: Literal["tail", "blocks"] = "tail"
    """Held-out frames: the last ones, or blocks spread over the clip (inside the range of training)."""
    test_frames: int = -1
    """Number of held-out frames; -1 = a fifth of the clip, at most 350 (500 in NeRFBlendShape mode where that is no
    more than a fifth): what the published protocol holds out of its long clips."""
    test_blocks: int = 5
    """Number of blocks for --split blocks."""
    test_cameras: tuple[str, ...] = ("auto",)
    """Of several cameras, names of those held out altogether; auto: of four and more the second in order of name; none:
    all train. --test_frames and --split hold out moments of the others."""
    white_background: Annotated[bool, Alias(aliases=["-w"])] = False
    """Train on white instead of black; the target is composited on the same colour."""
    cache: Literal["auto", "ram", "stream"] = "auto"
    """Where decoded images (uint8) wait: ram, stream (decode while training), auto (ram when they fit in half)."""
    targets: Literal["auto", "gpu", "host"] = "auto"
    """With a GPU, where images wait: gpu, host (copied a step ahead), auto (gpu when a quarter of it suffices)."""


@dataclass(frozen=True)
class ModelSettings:
    """What the avatar is made of."""

    sh_degree: Literal[0, 1, 2, 3] = 3
    """Highest degree of the spherical harmonics of colour."""
    num_expressions: int = 50
    """Expressions that move the Gaussians: the first of the head model's."""
    blendshapes: bool = True
    """Learn differences per expression; False leaves the expressions only the motion of the head model's mesh."""
    num_face_gaussians: int = 0
    """Gaussians sampled on the head at the start. 0: 50,000; 100,000 where several cameras train."""
    num_teeth_gaussians: int = 5_000
    """Gaussians sampled on each of the upper and lower teeth; 0 leaves the mouth interior to the face."""
    mask_threshold: float = 2.37277025e-5
    """Metres: expression displacement below which a difference does not exist (0.1 of FLAME's 50th mode)."""
    mask_unit: float = 5.6798049e-3
    """Metres: displacement at which the consistency mask is 1. FLAME's scale; the mask is not clamped above."""
    mask_max: float = float("inf")
    """Upper limit of the consistency mask; the method has none."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Losses, learning rates and schedules."""

    iterations: int = 0
    """Training steps; each sees --batch_size images. 0: 7,000; 14,000 where several cameras train. The method: 40,000
    of one image."""
    batch_size: int = 8
    """Frames per step."""
    schedule_scale: float = 0.0
    """Multiplies every iteration count below (not --iterations); 0 = iterations / 40,000, the whole schedule."""
    position_lr_init: float = 1.6e-4
    """Metres a step."""
    position_lr_final: float = 1.6e-6
    """Metres a step, reached log-linearly at --position_lr_max_steps."""
    position_lr_max_steps: int = 30_000
    """Iteration at which the position learning rate reaches its final value."""
    feature_lr: float = 2.5e-3
    """Colour, constant band; the higher bands learn at 1/20 of it."""
    opacity_lr: float = 0.05
    """Opacity logit."""
    scaling_lr: float = 5e-3
    """Logarithm of the scale."""
    rotation_lr: float = 1e-3
    """Quaternion components."""
    difference_position_lr: float = 1e-7
    """Expression differences of positions, metres a step, constant. The method: 3.2e-7."""
    difference_feature_lr: float = 1.25e-3
    """Expression differences of colour, all bands."""
    difference_opacity_lr: float = 5e-5
    """Expression differences of the opacity logit."""
    difference_scaling_lr: float = 5e-4
    """Expression differences of the log-scale."""
    difference_rotation_lr: float = 1e-4
    """Expression differences of the quaternion."""
    basis_lr_decay: float = 0.3
    """Factor on all difference learning rates except the position's. The method: 1, which fits training frames only."""
    sway_lr: float = 1e-5
    """How hair, neck and clothes follow the head's pose and the face this person's expressions (scene/sway.py): metres
    a step of 8 images (of another number in proportion), for a pose a centimetre off the mean. 0: they move as the
    head model does."""
    lambda_dssim: float = 0.2
    """Weight of 1 - SSIM; L1 gets 1 - lambda_dssim."""
    alpha_loss: float = 3.0
    """Weight of mean squared error between rendered and given alpha. The method: 10, which draws the head to mattes
    that are wrong in single frames."""
    lpips_loss: float | None = None
    """Weight of LPIPS. None: 0.1 on a GPU where the network's weights can be had, else 0. The method: 0."""
    lpips_network: Literal["alex", "vgg"] = "alex"
    """Network of --lpips_loss. VGG16 takes ten times AlexNet's time."""
    lpips_from_iter: int = 26_667
    """Before this iteration LPIPS does not count: it sharpens what stands in its place already."""
    isotropy_loss: float = 0.0
    """Weight of the squared excess of the axis ratio of each Gaussian."""
    cylinder_loss: float = 100.0
    """Weight of the squared distance (m^2) of teeth Gaussians to the mouth cylinder."""
    dark_mouth_loss: float = 0.0
    """Weight of the lightness of Gaussians that only a mouth opened wider than in training would show, so that such a
    mouth is dark inside and not mottled. Try 5 where the avatar is to open its mouth wider than its video did."""
    dark_mouth_from_iter: int = 26_667
    """Before this iteration that does not count: it is looked for once, in an avatar that has taken shape."""
    lpips_weights: Path | None = None
    """Folder with alexnet_features.pth and vgg16_features.pth, for machines that cannot download them."""
    sh_interval: int = 1_000
    """Iterations between rises of the active SH degree."""
    densify: bool = True
    """Clone, split and prune Gaussians."""
    densify_from_iter: int = 500
    """No densification up to and including this iteration."""
    densify_until_iter: int = 15_000
    """No densification from this iteration on."""
    densification_interval: int = 200
    """Iterations between densifications. The method: 100."""
    densify_grad_threshold: float = 0.0
    """Mean gradient (NDC scale) of one picture above which a face Gaussian is densified. 0: 4e-4; 1e-4 where several
    cameras train. The method: 1e-3."""
    densify_grad_threshold_teeth: float = 2e-4
    """The same for teeth."""
    percent_dense: float = 0.01
    """Metres: larger Gaussians are split, smaller ones cloned."""
    prune_opacity: float = 0.005
    """Gaussians below this neutral opacity are removed at densification."""
    prune_scale: float = 0.1
    """Metres: larger Gaussians are removed at densification after --prune_scale_from_iter."""
    prune_scale_from_iter: int = 3_000
    """Iteration after which --prune_scale applies."""
    prune_unseen: float = 0.03
    """Pixels: Gaussians that no training picture shows more of are removed when densification ends; 0 keeps all."""
    max_gaussians: int = 200_000
    """Densification stops adding Gaussians at this number."""

    @property
    def scale(self) -> float:
        """The factor on the iteration counts of the schedule."""
        return self.schedule_scale or self.iterations / METHOD_ITERATIONS


@dataclass(frozen=True)
class RefinementSettings:
    """Joint refinement of the tracking: small corrections of camera pose and codes of every training frame.

    Learning rates are in metres of surface motion a visit of the frame, so that they fit any head model's codes. Frames
    that are drawn less than 80 times take longer steps (up to 4 times), so that short runs get as far.
    """

    refine_tracking: bool = True
    """Learn corrections of the tracked pose and codes together with the avatar. The method does not."""
    refine_from_iter: int = 4_000
    """Iteration from which corrections are learnt (for 40,000, scaled as the schedule is)."""
    refine_pose_lr: float = 1.5e-4
    """Metres a visit (of 80 or more), rotation and translation of the camera; falls to a tenth. 0: the tracker's."""
    refine_expression_lr: float = 1.5e-4
    """The same for the expression codes that move the Gaussians."""
    refine_joint_lr: float = 1.5e-4
    """The same for jaw, eyes and eyelids."""
    refine_camera_lr: float = 0.0
    """Of several cameras: metres a step, turn and shift of each camera, once for all moments. 0: as calibrated."""
    refine_prior: float = 1e-4
    """Weight of the mean squared correction in (mm of surface motion)^2, summed over pose and codes."""
    refine_calibrate: bool = True
    """Correct held-out frames too: predict their corrections from their tracked pose and codes."""

    def __post_init__(self) -> None:
        for name in ("refine_from_iter", "refine_pose_lr", "refine_expression_lr", "refine_joint_lr",
                     "refine_camera_lr", "refine_prior"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name}: wanted 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class RunSettings:
    """Where results go and how the run behaves."""

    model_path: Annotated[Path, Alias(aliases=["-m"])]
    """Output folder of the run."""
    seed: int = 0
    """Seeds Python, NumPy, torch, the surface sampling and the frame order."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
    log_interval: int = 10
    """Iterations between logged scalars."""
    test_iterations: tuple[int, ...] = ()
    """Iterations at which some held-out frames are scored and pictured; empty = at 1/4, 1/2, 3/4 and the end."""
    test_views: int = 8
    """Held-out frames scored at --test_iterations (spread evenly); test.py scores all."""
    checkpoint_interval: int | None = None
    """Iterations between checkpoints; None = every two minutes. The last iteration is always saved."""
    keep_checkpoints: int = 2
    """Older checkpoints beyond this number are deleted; 0 keeps all."""
    check_data: bool = True
    """Look at masks, cameras and codes before training; False trains on what looks impossible, too."""
    check_only: bool = False
    """Only look at the data: print what is doubtful, leave data_check.jpg in --model_path, train nothing."""
    resume: bool = False
    """Continue from the newest checkpoint in --model_path, with the run's saved settings."""
    tensorboard: bool = True
    """Write TensorBoard event files."""


@dataclass(frozen=True)
class TrainSettings:
    """Learn a Gaussian-blendshape head avatar from one tracked video."""

    data: tyro.conf.OmitArgPrefixes[DataSettings]
    run: tyro.conf.OmitArgPrefixes[RunSettings]
    model: tyro.conf.OmitArgPrefixes[ModelSettings] = field(default_factory=ModelSettings)
    optimization: tyro.conf.OmitArgPrefixes[OptimizationSettings] = field(default_factory=OptimizationSettings)
    refinement: tyro.conf.OmitArgPrefixes[RefinementSettings] = field(default_factory=RefinementSettings)

    def decided(self, several: bool) -> TrainSettings:
        """With what the user left open; several: whether more than one camera trains."""
        return self._filled(SEVERAL_CAMERAS if several else ONE_CAMERA)

    def decided_as(self, run: TrainSettings) -> TrainSettings:
        """With what the user left open as an earlier run of the same data decided it."""
        return self._filled({group: vars(getattr(run, group)) for group in LEFT_OPEN})

    def _filled(self, values: dict[str, dict[str, Any]]) -> TrainSettings:
        groups = {}
        for group, names in LEFT_OPEN.items():
            mine = getattr(self, group)
            still_open = [name for name in names if getattr(mine, name) == getattr(type(mine), name)]
            groups[group] = replace(mine, **{name: values[group][name] for name in still_open if name in values[group]})
        return replace(self, **groups)


# Settings whose default says that the program decides. What several cameras take was measured on the demo subject: with
# it the view of one of them is as sharp as where that one trains alone (docs/experiments.md, "Several cameras").
LEFT_OPEN = {"model": ("num_face_gaussians",), "optimization": ("iterations", "densify_grad_threshold", "lpips_loss")}
ONE_CAMERA: dict[str, dict[str, Any]] = {
    "model": {"num_face_gaussians": 50_000},
    "optimization": {"iterations": 7_000, "densify_grad_threshold": 4e-4},
}
SEVERAL_CAMERAS: dict[str, dict[str, Any]] = {
    "model": {"num_face_gaussians": 100_000},
    "optimization": {"iterations": 14_000, "densify_grad_threshold": 1e-4},
}

Protocol = Literal["as_tracked", "predicted", "seen"]


@dataclass(frozen=True)
class TestSettings:
    """Render a trained avatar and score it against held-out frames; everything goes below --model_path."""

    __test__ = False  # pytest collects classes named Test*

    model_path: Annotated[Path, Alias(aliases=["-m"])]
    """Output folder of a training run."""
    source_path: Annotated[Path | None, Alias(aliases=["-s"])] = None
    """Data set folder, if it is no longer where the run found it."""
    iteration: int = -1
    """Checkpoint to load; -1 = the newest."""
    split: Literal["test", "train", "all"] = "test"
    """Frames to render and score."""
    protocols: tuple[Protocol, ...] = ("predicted",)
    """Where pose and codes of the scored frames come from: as_tracked, the tracker; predicted, the tracker with the
    corrections that a run with --refine_tracking learnt from its training frames; seen, estimated from the scored
    picture itself through the avatar, whose looks stay as they are. The first one gets the report's pictures."""
    seen_steps: int = 30
    """Adam steps of a frame's estimate in the protocol seen."""
    without_blendshapes: Path | None = None
    """Run (already tested) of the same data trained with --blendshapes False, for the comparison in the report."""
    lpips: tuple[Literal["alex", "vgg"], ...] = ("alex", "vgg")
    """LPIPS networks to score with."""
    lpips_weights: Path | None = None
    """Folder with alexnet_features.pth and vgg16_features.pth, for machines that cannot download them."""
    lpips_every: int = 1
    """LPIPS on every n-th frame only (VGG16 takes seconds a frame on a CPU)."""
    batch_size: int = 4
    """Frames rendered together."""
    background: Literal["black", "white"] = "black"
    """Background of pictures and video; scores are always on black."""
    pictures: Literal["all", "selected"] = "all"
    """Side-by-side pictures of all frames, or of the best, median and worst."""
    video: bool = True
    """Write an mp4 video of the side-by-side pictures."""
    fps: float = 25.0
    """Frames per second of the video."""
    report: bool = True
    """Write report.html."""
    device: str = "auto"
    """auto, cpu or cuda[:index]."""
