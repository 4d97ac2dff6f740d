"""`FastRenderer`: codes and cameras to pictures with no Python between kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from blendshape_ops import FrameCodes, HalfDifferences, Posed, drive_frames, to_bytes
from torch import Tensor

from gaussian_renderer import Cameras, render
from gaussian_renderer.capture import WARM_UP, CapturedStep
from player.player import Player
from player.tables import drive_tables
from scene.rig import Codes
from scene.sway import CODES

SLOTS = 4  # pinned copies of the inputs in flight: the host may be that many pictures ahead of the GPU
_CODES = {"expression": None, "neck": 6, "jaw": 6, "eyes": 12, "eyelids": 2}
_VIEW = {"R": (3, 3), "t": (3,), "K": (3, 3), "background": (3,)}


class FastFrames(NamedTuple):
    """Pictures of n frames; on a GPU at fixed places, which the next call overwrites."""

    image: Tensor         # [n,3,H,W] float32, not clamped above
    alpha: Tensor         # [n,H,W]
    bytes: Tensor | None  # [n,H,W,3] uint8, where asked for


class FastRenderer:
    """Draws up to `batch` frames a call at one picture size. On a GPU a call is one small copy and one CUDA graph.

    half: expression differences in half precision: less memory to read, the picture equal within 50 dB (on a CPU full
    precision is quicker). as_bytes: the picture also as uint8. What the avatar's tables hold is taken over when this is
    made; later changes are not seen.
    A call does not wait for the GPU. Where a frame needs more of the rasterizer's lists than any before, the graph is
    captured again: the picture is right, that call is slow.
    """

    def __init__(self, player: Player, width: int, height: int, batch: int = 1, half: bool = True,
                 as_bytes: bool = False) -> None:
        if batch < 1:
            raise ValueError(f"batch: wanted 1 or more frames, got {batch}")
        self.batch, self._as_bytes, self._player, self._device = batch, as_bytes, player, player.device
        # Held here: a graph reads these tables where they lay at its capture.
        self._avatar, self._sh_degree = player.avatar, player.sh_degree
        with self._on_its_device():
            self._tables = drive_tables(player.rig, player.avatar)
            self._half = HalfDifferences.of(player.avatar.differences) if half else None
        neck = player.neutral_codes().to("cpu").neck
        assert neck is not None
        self._defaults = {device.type: (neck.to(device), torch.zeros(1, 3, device=device))
                          for device in (neck.device, self._device)}
        sways = {} if player.avatar.sway is None else {"sway": CODES}
        self._shapes: dict[str, tuple[int, ...]] = {
            name: (size or player.head.n_expression,) for name, size in (_CODES | sways).items()} | _VIEW
        self._open(width, height)

    def resized(self, width: int, height: int) -> FastRenderer:
        """A renderer of another picture size that shares this one's tables; both can be used."""
        other = copy(self)
        other._open(width, height)
        return other

    def _open(self, width: int, height: int) -> None:
        """Make the places of inputs and pictures, and capture the graph."""
        self.width, self.height = width, height
        sizes = [self.batch * torch.Size(shape).numel() for shape in self._shapes.values()]
        self._inputs = torch.zeros(sum(sizes), device=self._device)
        parts = self._inputs.split(sizes)
        self._at = {name: part.view(self.batch, *shape)
                    for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        self._captured: CapturedStep[FastFrames] | None = None
        if self._device.type != "cuda":
            return
        self._slot = 0
        self._slots = [torch.zeros(len(self._inputs)).pin_memory() for _ in range(SLOTS)]
        self._sent = [torch.cuda.Event() for _ in range(SLOTS)]
        self._captured = CapturedStep(self._compute, (self._device, self.batch, width, height))
        cameras = self._player.cameras_of([0] * self.batch, width, height)
        for _ in range(WARM_UP + 1):
            self.render(self._player.neutral_codes(self.batch), cameras)

    def render(self, codes: Codes, cameras: Cameras, background: Tensor | None = None) -> FastFrames:
        """Draw 1 to `batch` frames over a colour [3] or [n,3] (None: black).

        Quickest with codes, cameras and background on the CPU; all on the GPU works too. `codes.shape` is not looked
        at. Raises ValueError naming what does not fit.
        """
        count = len(codes)
        with self._on_its_device():
            self._send(self._packed(codes, cameras, background))
            frames = self._compute() if self._captured is None else self._captured.run(None)
        pictures = None if frames.bytes is None else frames.bytes[:count]
        return FastFrames(frames.image[:count], frames.alpha[:count], pictures)

    def _on_its_device(self) -> AbstractContextManager[object]:
        """Inside, the player's GPU is torch's current one; on a CPU nothing."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _packed(self, codes: Codes, cameras: Cameras, background: Tensor | None) -> list[Tensor]:
        """The inputs one after another, each [batch, ...], checked; frames that are missing repeat the last one."""
        count = len(codes)
        if not 1 <= count <= self.batch:
            raise ValueError(f"codes: wanted 1 to {self.batch} frames, got {count}")
        if (cameras.width, cameras.height) != (self.width, self.height):
            raise ValueError(f"cameras: wanted pictures of {self.width} x {self.height} as this renderer draws, got "
                             f"{cameras.width} x {cameras.height}")
        rest_neck, black = (value.expand(count, -1) for value in self._defaults[codes.jaw.device.type])
        if background is None:
            background = black
        given = {"expression": codes.expression, "neck": rest_neck if codes.neck is None else codes.neck,
                 "jaw": codes.jaw, "eyes": codes.eyes, "eyelids": codes.eyelids,
                 "sway": codes.jaw.new_zeros(count, CODES) if codes.sway is None else codes.sway,
                 "R": cameras.R, "t": cameras.t, "K": cameras.K,
                 "background": background.expand(count, 3) if background.ndim == 1 else background}
        parts = []
        for name, shape in self._shapes.items():
            part = given[name]
            if part.shape != (count, *shape) or part.dtype != torch.float32:
                raise ValueError(f"{name}: wanted float32 {[count, *shape]}, got {part.dtype} {list(part.shape)}")
            parts.append(part if count == self.batch else
                         torch.cat([part, part[-1:].expand(self.batch - count, *shape)]))
        return parts

    def _send(self, parts: list[Tensor]) -> None:
        if self._captured is None or any(part.is_cuda for part in parts):
            self._inputs.copy_(torch.cat([part.to(self._device).reshape(-1) for part in parts]))
            return
        slot = self._slots[self._slot]
        self._sent[self._slot].synchronize()
        torch.cat([part.reshape(-1) for part in parts], out=slot)
        self._inputs.copy_(slot, non_blocking=True)
        self._sent[self._slot].record(torch.cuda.current_stream(self._device))
        self._slot = (self._slot + 1) % SLOTS

    @torch.no_grad()
    def _compute(self) -> FastFrames:
        at = self._at
        posed = self._posed(FrameCodes(**{name: at[name] for name in (*_CODES, "R", "t")}), at.get("sway"))
        output = render(posed, Cameras(at["R"], at["t"], at["K"], self.width, self.height), at["background"])
        return FastFrames(output.image, output.alpha, to_bytes(output.image) if self._as_bytes else None)

    def _posed(self, codes: FrameCodes, sway: Tensor | None) -> Posed:
        drive = replace(drive_frames(self._tables, codes), sway=sway)
        # drive_frames has limited the codes.
        return self._avatar.pose(drive, self._sh_degree, limited=False, half=self._half)
