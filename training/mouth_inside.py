"""Makes dark what only a mouth that opens wider than in training would show.

Behind the lips lie Gaussians that take part in the pictures of training through thin layers only, if at all. What they
learn there is noise: they need not look like anything, as long as what lies before them makes up for it. Where a
wider open mouth uncovers them, they show as a mottle of skin, grey and stray colours. A mouth is dark inside, so a loss
draws them there as strongly as one more picture would, of the mouth wide open; where training's own pictures say
otherwise, these weigh against it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from blendshape_ops import SH, SH_C0, Posed
from torch import Tensor

from arguments import OptimizationSettings
from flame import Head
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle
from gaussian_renderer import Cameras
from scene.avatar import Avatar
from scene.initialize import DARK
from scene.rig import Codes, Rig
from training.team import Team
from training.unseen import most_shown, own_frames
from training.world import World

log = logging.getLogger(__name__)

OPENINGS = (0.12, 0.24, 0.36)  # radians by which the jaw is opened further; a wide yawn is some 0.5
WIDEST, SPREAD, OPENED = 16, 32, 16  # frames: with the widest jaw, evenly over the clip, and of these to be opened
UNCOVERED = 2.0  # times what any frame of training shows of a Gaussian: what an opened mouth shows more is unknown


def with_open_jaw(codes: Codes, head: Head, angle: float) -> Codes:
    """Codes whose jaw is opened by `angle` radians more, with the expression that belongs to it, where there is one."""
    turn = matrix_from_axis_angle(codes.jaw.new_tensor([angle, 0.0, 0.0]))
    expression, opening = codes.expression.clone(), head.expression_jaw[:, 0]
    if bool(opening.any()):
        which = int(opening.argmax())
        expression[:, which] += angle / opening[which]
    return replace(codes, expression=expression, jaw=matrix_to_6d(turn @ matrix_from_6d(codes.jaw)))


def chosen_frames(world: World) -> tuple[Tensor, Tensor]:
    """Training frames of one size, ascending: those that show what is seen of a mouth, and some of them to be opened.

    int64 on the CPU. Of several sizes the one that most frames have.
    """
    frames = max(world.dataset.by_size(world.dataset.train_indices), key=len)
    jaw = matrix_to_axis_angle(matrix_from_6d(world.clip.codes.jaw[frames]))[:, 0].numpy()
    spread = frames[np.linspace(0, len(frames) - 1, min(SPREAD, len(frames))).astype(int)]
    shown = np.union1d(frames[np.argsort(jaw, kind="stable")[-WIDEST:]], spread)
    return torch.from_numpy(shown), torch.from_numpy(spread[::max(1, len(spread) // OPENED)])


def mouth_windows(vertices: Tensor, cameras: Cameras) -> Tensor:
    """The pixels [B,H,W] (1 and 0) in the box about the projected vertices [B,V,3] of each picture."""
    seen = torch.einsum("bij,bvj->bvi", cameras.K, vertices @ cameras.R.transpose(1, 2) + cameras.t[:, None])
    places = seen[..., :2] / seen[..., 2:]
    inside = []
    for axis, count in ((1, cameras.height), (0, cameras.width)):
        middles = torch.arange(count, device=vertices.device) + 0.5
        low, high = places[..., axis].amin(dim=1), places[..., axis].amax(dim=1)
        inside.append((middles > low[:, None]) & (middles < high[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :]).to(vertices.dtype)


@dataclass(frozen=True, eq=False)
class Hidden:
    """Gaussians that training hides in the mouth: their numbers [h] (int64, ascending), and how many pixels more than
    training knows of them an opened mouth would show [h] (float32)."""

    rows: Tensor
    surplus: Tensor

    def lightness(self, neutral: Tensor) -> Tensor:
        """How far their colours are from dark, as a wide open mouth shows them: a scalar, in pixels of white.

        neutral [N,60]. The constant colour counts where it is lighter than `DARK`, the view-dependent one whatever it
        is; mean over channels and coefficients. Differentiable; no shape depends on values.
        """
        colors = neutral.index_select(0, self.rows)[:, SH]
        constant, rest = (colors[:, :3] - DARK).clamp_min(0), colors[:, 3:].abs()
        return SH_C0 * (self.surplus * (constant.mean(dim=1) + rest.mean(dim=1))).sum()


def hidden_in_mouth(world: World, avatar: Avatar, sh_degree: int, batch_size: int, team: Team) -> Hidden:
    """The Gaussians that training hides and a mouth opened wider would show.

    A Gaussian's share of a picture is its blending weights, summed over pixels (`shown_pixels`). Chosen is whose
    largest share of the mouths of training frames, opened by `OPENINGS`, exceeds `UNCOVERED` times its largest share of
    any of the training frames as they are; the surplus is by how many pixels. `world`: with the tracking as far as it
    is refined. Of several processes each looks at some of the frames; all of them call it.
    """
    device = avatar.neutral.device
    shown, opened = (own_frames(frames, team) for frames in chosen_frames(world))
    size = world.dataset.size(int(shown[0]))

    def as_it_is(batch: Tensor) -> tuple[Posed, Cameras]:
        cameras = world.cameras_of(batch, size)
        return avatar.pose(world.rig.drive(batch, cameras.centers), sh_degree, limited=False), cameras

    def with_mouth_open(rows: Tensor, rig: Rig) -> tuple[Posed, Cameras, Tensor]:
        cameras = world.cameras_of(opened[rows].to(device), size)
        mouth = rig.posed.vertices_at(rows)[:, world.head.regions["mouth"]].to(device)
        posed = avatar.pose(rig.drive(rows.to(device), cameras.centers), sh_degree)
        return posed, cameras, mouth_windows(mouth, cameras)

    seen = team.largest(most_shown(as_it_is, shown.to(device), batch_size))
    codes, rows = world.clip.codes.at(opened), torch.arange(len(opened))
    rigs = [world.rig.with_codes(with_open_jaw(codes, world.head, angle)) for angle in OPENINGS]
    most = [most_shown(partial(with_mouth_open, rig=rig), rows, batch_size) for rig in rigs]
    surplus = team.largest(torch.stack(most).amax(dim=0)) - UNCOVERED * seen
    hidden = (surplus > 0).nonzero()[:, 0]
    return Hidden(hidden, surplus[hidden])


class MouthInside:
    """What is hidden in the mouth of a run's avatar, from `dark_mouth_from_iter` of its settings on.

    hidden: found when it is needed first; None before, after rows have changed, and where its loss has no weight.
    """

    STATE = ("mouth_inside.rows", "mouth_inside.surplus")  # the names that a checkpoint has for it

    def __init__(self, settings: OptimizationSettings) -> None:
        self._first = round(settings.dark_mouth_from_iter * settings.scale) + 1 if settings.dark_mouth_loss else None
        self.hidden: Hidden | None = None

    def before_step(self, iteration: int, find: Callable[[], Hidden]) -> None:
        """Before each step of training. find: `hidden_in_mouth` of the present avatar."""
        if self.hidden is None and self._first is not None and iteration >= self._first:
            self.hidden = find()
            log.info("%d Gaussians that training hides in the mouth learn to be dark", len(self.hidden.rows))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: nothing before it is found."""
        found = self.hidden
        return {} if found is None else dict(zip(self.STATE, (found.rows, found.surplus), strict=True))

    def load_state_dict(self, state: dict[str, Tensor], avatar: Avatar) -> None:
        """Take over what `state_dict` gave, of everything that a checkpoint holds. ValueError when it does not fit."""
        self.hidden = None
        if not set(self.STATE) & state.keys():
            return
        rows, surplus = (state.get(name, torch.zeros(0)) for name in self.STATE)
        if rows.dtype != torch.int64 or rows.ndim != 1 or surplus.dtype != torch.float32 or surplus.shape != rows.shape:
            raise ValueError(f"{', '.join(self.STATE)}: wanted int64 and float32 numbers, as many of both, got "
                             f"{rows.dtype} {list(rows.shape)} and {surplus.dtype} {list(surplus.shape)}")
        if bool(((rows < 0) | (rows >= avatar.count)).any()):
            raise ValueError(f"{self.STATE[0]}: wanted numbers of Gaussians, 0 to {avatar.count - 1}, got "
                             f"{int(rows.min())} to {int(rows.max())}")
        device = avatar.neutral.device
        self.hidden = Hidden(rows.to(device), surplus.to(device))
