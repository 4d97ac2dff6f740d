"""From a state and a camera to a picture: the layers, parts and overlays of the page, drawn by our renderer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import cv2
import numpy as np
import torch
from blendshape_ops import Posed
from numpy.typing import NDArray
from torch import Tensor

from evaluation.pictures import colorize, error_map, to_bytes
from gaussian_renderer import Cameras, RenderOutput, render
from player import Player
from player.fast import FastRenderer
from scene.avatar import FACE
from scene.rig import Codes
from viewer.camera import around, clip_camera, fitted
from viewer.overlay import Pinhole, draw_centres, draw_mesh, label
from viewer.state import ViewState, codes_of
from viewer.truth import GroundTruth

Image = NDArray[np.uint8]
LEAST_ALPHA = 0.05  # where the head covers less of a pixel it has no depth
FACE_DOTS, TEETH_DOTS = (80, 190, 255), (255, 170, 40)
OUTSIDE = 24  # grey around the frame in the comparison
SIZES_KEPT = 4  # captured graphs on a GPU, one a picture size


class Painter:
    """Draws one avatar, for any thread. Pictures are uint8 RGB [H,W,3]; cameras of one frame (B = 1), on the CPU."""

    def __init__(self, player: Player, truth: GroundTruth | None = None) -> None:
        self.player = player
        self.truth = truth
        self._clip = player.clip.codes
        self._lock = threading.Lock()
        self._fast: OrderedDict[tuple[int, int], FastRenderer] = OrderedDict()
        rest = player.vertices(player.neutral_codes())[0]
        self.middle = (0.5 * (rest.amin(0) + rest.amax(0))).cpu().numpy()  # [3], metres, around which to orbit
        distance = (rest - rest.new_tensor(self.middle)).norm(dim=1)
        self._radius = float(distance.quantile(0.9))  # without the collar that heads end in
        self._teeth = player.avatar.part != FACE

    def codes(self, state: ViewState) -> Codes:
        """The codes [1,...] of a state (CPU)."""
        return codes_of(state, self.player.head, self._clip)

    def camera(self, state: ViewState, own: Cameras) -> Cameras:
        """The camera to draw with: `own`, or the clip's in a picture of the same size; about a turned head if a live
        driver turns it.
        """
        if state.view == "clip":
            own = clip_camera(self.player.clip, state.frame, own.width, own.height)
        if state.base == "driver" and state.driven is not None:
            return around(own, state.driven.turn, self.middle)
        return own

    @torch.no_grad()
    def paint(self, state: ViewState, own: Cameras) -> Image:
        """The picture of a state, as large as `own` says; see `camera`. ValueError as `codes_of`.

        The comparison is drawn from the clip's camera, always, and needs the data set.
        """
        with self._lock:
            if state.compare:
                return self._paint_comparison(state, own.width, own.height)
            return self._paint_view(state, self.camera(state, own))

    def depth(self, state: ViewState, own: Cameras) -> tuple[Tensor, Tensor]:
        """Depth [H,W] in metres along the view axis, the mean over what is seen of each pixel, and alpha [H,W].

        0 where alpha is below `LEAST_ALPHA`.
        """
        cameras = self.camera(state, own).to(self.player.device)
        return self._depth(self._posed(state, cameras), cameras)

    def depth_range(self, cameras: Cameras) -> tuple[float, float]:
        """Nearest and farthest depth of the head at rest in metres: the two ends of the colours of the layer."""
        distance = float(cameras.R[0, 2].cpu().numpy() @ self.middle + float(cameras.t[0, 2]))
        return max(distance - self._radius, 0.0), distance + self._radius

    def mask(self, expression: int) -> Tensor:
        """Consistency mask [N] of an expression: how strongly its differences act; 0 where there are none."""
        differences = self.player.avatar.differences
        chosen = differences.expression == expression
        values = torch.zeros(self.player.avatar.count, device=self.player.device)
        values[differences.gaussian[chosen].long()] = differences.mask[chosen]
        return values

    def _paint_view(self, state: ViewState, own: Cameras) -> Image:
        pinhole: Pinhole = (own.R[0].numpy(), own.t[0].numpy(), own.K[0].numpy())
        plain = state.layer == "colour" and state.parts == "everything" and not state.centres
        if plain and self.player.device.type == "cuda":
            picture = self._paint_fast(state, own)
        else:
            cameras = own.to(self.player.device)
            posed = self._posed(state, cameras)
            picture = self._paint_layer(state, posed, cameras)
        if state.mesh:
            vertices = self.player.vertices(self.codes(state))[0].cpu().numpy()
            picture = draw_mesh(picture, vertices, self.player.head.faces.numpy(), pinhole)
        if state.centres:
            teeth = self._teeth.cpu().numpy()[:, None]
            colors = np.where(teeth, TEETH_DOTS, FACE_DOTS).astype(np.uint8)
            shown = self._shown(state).cpu().numpy()
            picture = draw_centres(picture, posed.means[0].cpu().numpy()[shown], colors[shown], pinhole)
        return picture

    def _paint_fast(self, state: ViewState, cameras: Cameras) -> Image:
        """The picture in colour by a captured graph, which is worth it on a GPU alone."""
        size = cameras.width, cameras.height
        renderer = self._fast.pop(size, None)
        if renderer is None:
            other = next(iter(self._fast.values()), None)
            renderer = other.resized(*size) if other else FastRenderer(self.player, *size, as_bytes=True)
        self._fast[size] = renderer
        if len(self._fast) > SIZES_KEPT:
            self._fast.popitem(last=False)
        drawn = renderer.render(self.codes(state), cameras, torch.tensor(state.background)).bytes
        assert drawn is not None  # as_bytes
        return drawn[0].cpu().numpy()

    def _paint_layer(self, state: ViewState, posed: Posed, cameras: Cameras) -> Image:
        if state.layer == "opacity":
            return to_bytes(render(posed, cameras).alpha[0].cpu().numpy())[..., None].repeat(3, axis=2)
        if state.layer == "depth":
            depth, alpha = self._depth(posed, cameras)
            near, far = self.depth_range(cameras)
            closeness = ((far - depth) / (far - near)).clamp(0, 1)
            return colorize(torch.where(alpha < LEAST_ALPHA, 0, closeness).cpu().numpy())
        if state.layer == "mask":
            posed = replace(posed, colors=self._heat(state.mask_expression)[None])
        return _to_picture(render(posed, cameras, self._background(state)))

    def _depth(self, posed: Posed, cameras: Cameras) -> tuple[Tensor, Tensor]:
        depth = posed.means @ cameras.R[0, 2] + cameras.t[0, 2]
        drawn = render(replace(posed, colors=depth[..., None].expand(-1, -1, 3).contiguous()), cameras)
        alpha = drawn.alpha[0]
        return torch.where(alpha < LEAST_ALPHA, 0, drawn.image[0, 0] / alpha.clamp_min(LEAST_ALPHA)), alpha

    def _heat(self, expression: int) -> Tensor:
        """Colour [N,3] of each Gaussian: its mask, 1 at the largest of the expression."""
        mask = self.mask(expression)
        heat = colorize((mask / mask.max().clamp_min(1e-12)).cpu().numpy()[None])[0]
        return torch.from_numpy(heat.astype(np.float32) / 255).to(self.player.device)

    def _posed(self, state: ViewState, cameras: Cameras) -> Posed:
        posed = self.player.pose(self.codes(state), cameras.centers)
        if state.parts == "everything":
            return posed
        return replace(posed, opacities=posed.opacities * self._shown(state))

    def _shown(self, state: ViewState) -> Tensor:
        """Which Gaussians [N] a state shows."""
        if state.parts == "everything":
            return torch.ones_like(self._teeth)
        return self._teeth if state.parts == "teeth only" else ~self._teeth

    def _background(self, state: ViewState) -> Tensor:
        return torch.tensor(state.background, device=self.player.device)

    def _paint_comparison(self, state: ViewState, width: int, height: int) -> Image:
        """Ground truth, avatar and error in a row (a column in a high window), each the whole frame of the clip."""
        if self.truth is None:
            raise ValueError("compare: wanted the data set of the avatar, but it is not open")
        if state.base != "clip":
            raise ValueError("compare: wanted the codes of the clip; the head at rest has no ground truth")
        clip, across = self.player.clip, width >= height
        columns, rows = (width // 3, height) if across else (width, height // 3)
        left, top, scale = fitted(clip, columns, rows)
        size = max(1, round(scale * clip.width)), max(1, round(scale * clip.height))
        drawn = min(size[0], clip.width), min(size[1], clip.height)  # enlarged afterwards: no truth beyond its pixels
        avatar = self._paint_layer(state, *self._clip_view(state, *drawn))
        truth = self.truth.over(state.frame, state.background)
        shrunk = np.asarray(cv2.resize(truth, drawn, interpolation=cv2.INTER_AREA), np.float32)
        panels = {"ground truth": to_bytes(shrunk), "avatar": avatar, "error": error_map(avatar / 255.0, shrunk)}
        canvas = np.full((height, width, 3), OUTSIDE, np.uint8)
        for place, (name, panel) in enumerate(panels.items()):
            x, y = (int(left) + place * columns * across, int(top) + place * rows * (not across))
            canvas[y:y + size[1], x:x + size[0]] = cv2.resize(panel, size, interpolation=cv2.INTER_LINEAR)
            label(canvas, name, x + 4, y + 4)
        return canvas

    def _clip_view(self, state: ViewState, width: int, height: int) -> tuple[Posed, Cameras]:
        cameras = self.player.cameras_of(state.frame, width, height)
        return self._posed(state, cameras), cameras


def _to_picture(drawn: RenderOutput) -> Image:
    """uint8 [H,W,3] of the first frame; rounded on the device, so that a GPU sends bytes."""
    image = (drawn.image[0].clamp(0, 1) * 255).round().byte()
    return image.permute(1, 2, 0).contiguous().cpu().numpy()
