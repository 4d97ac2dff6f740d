"""Figures of a trained avatar on one core of the CPU, as docs/export.md, docs/player.md and docs/viewer.md give them:

    python -m benchmarks.demo_avatar output/demo

Sizes of what export.py writes; how far pictures of the written files, read back by the readers of the tests, are from
`Player.render` (512 x 512, over black); the fast renderer against the plain one; processor time of the NumPy loader, of
a posed splat file, and of the viewer's pictures with their JPEG. Processor time counts, because machines are shared.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from blendshape_ops import Posed, sh_basis
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from arguments.export_settings import ExportSettings
from exporting import exporter_of
from exporting.numpy_player import Avatar
from exporting.poses import HALF_TURN
from gaussian_renderer import Cameras, render
from player import Player, open_player
from player.fast import FastRenderer
from tests.test_export_avatar import pose_of
from tests.test_export_poses import draw_ply, psnr, unpack_spz
from utils.images import encode_image
from viewer.camera import clip_camera
from viewer.picture import Painter
from viewer.state import ViewState

SIDE, SHOWN = 512, 6  # pixels; frames spread over the clip
VIEWED, REPEATED = (256, 512, 1024), 28
MOVING_QUALITY = 75  # of the viewer's JPEG while something moves


def written(player: Player, settings: ExportSettings) -> Path:
    """What export.py would write."""
    return exporter_of(settings.format)(player, settings)


def bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def shown_frames(player: Player) -> list[int]:
    return [round(place * (len(player.clip) - 1) / (SHOWN - 1)) for place in range(SHOWN)]


def draw(splats: dict[str, NDArray[np.float64]], sh: NDArray[np.float64], cameras: Cameras) -> Tensor:
    """Means, quats, scales, opacities and harmonics [N,(degree+1)^2,3] of a file as a picture [3,H,W]."""
    means, quats, scales, opacities = (torch.from_numpy(np.ascontiguousarray(splats[name])).float()[None]
                                       for name in ("means", "quats", "scales", "opacities"))
    basis = sh_basis(normalize(means[0] - cameras.centers, dim=1), math.isqrt(sh.shape[1]) - 1)
    colors = (0.5 + torch.einsum("nj,njc->nc", basis, torch.from_numpy(sh).float())).clamp(min=0)
    return render(Posed(means, normalize(quats, dim=2), scales, opacities, colors[None]), cameras).image[0]


def splat_rows(path: Path) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """What a .splat file says, as `draw` takes it."""
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32)
    numbers = raw[:, :24].copy().view("<f4").astype(np.float64)
    sh = (raw[:, None, 24:27] / 255 - 0.5) / 0.28209479
    return {"means": numbers[:, :3], "scales": numbers[:, 3:], "opacities": raw[:, 27] / 255,
            "quats": (raw[:, 28:].astype(np.float64) - 128) / 128}, sh


def file_pictures(player: Player, folder: Path, frame: int) -> Iterator[tuple[str, Tensor]]:
    """Pictures of the files of one pose, each read back."""
    cameras = player.cameras_of(frame)
    for kind, up in (("ply", "auto"), ("splat", "y"), ("spz", "y")):
        settings = ExportSettings(folder, kind, folder / f"{frame}.{kind}", frame=frame, up=up)  # type: ignore[arg-type]
        path = written(player, settings)
        if kind == "ply":
            yield kind, draw_ply(path, player, frame, HALF_TURN)
        elif kind == "splat":
            yield kind, draw(*splat_rows(path), cameras)
        else:
            found = unpack_spz(path)
            yield kind, draw(found, np.concatenate([found["dc"][:, None], found["rest"]], axis=1), cameras)


def loader_picture(player: Player, avatar: Avatar, frame: int) -> tuple[float, Tensor]:
    """Processor seconds of the NumPy loader for a frame, and its picture."""
    cameras, codes = player.cameras_of(frame), player.codes_of(frame)
    start = time.process_time()
    found = pose_of(avatar, codes)
    found["colors"] = avatar.colors(found, cameras.centers[0].numpy())
    seconds = time.process_time() - start
    posed = Posed(*(torch.from_numpy(np.ascontiguousarray(found[name])).float()[None]
                    for name in ("means", "quats", "scales", "opacities", "colors")))
    return seconds, render(posed, cameras).image[0]


def resized(player: Player, side: int) -> Player:
    """The same player whose clip has pictures of side x side."""
    cameras = player.cameras_of(slice(None), side, side)
    clip = replace(player.clip, K=cameras.K, width=side, height=side)
    return Player(player.head, player.avatar, clip, player.sh_degree, player.num_expressions, player.device, "resized")


def span(values: list[float], unit: str, digits: int = 0) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} {unit}"


def sizes(player: Player, run: Path, folder: Path) -> None:
    """Print bytes of the checkpoint and of every format."""
    count = player.avatar.count
    checkpoint = max((run / "checkpoints").iterdir())
    known = {"avatar.safetensors": (checkpoint / "avatar.safetensors").stat().st_size,
             "whole checkpoint": bytes_of(checkpoint)}
    print(f"{count:,} Gaussians, {len(player.avatar.differences.values):,} differences")
    for kind in ("ply", "splat", "spz", "gltf", "npy", "avatar", "web", "gbav"):
        settings = ExportSettings(folder, kind)
        known[kind] = bytes_of(written(player, settings))
    for name, size in known.items():
        print(f"{name}: {size / 1e6:.1f} MB, {size / count:.1f} bytes a Gaussian, "
              f"{size / known['avatar.safetensors']:.2f} of avatar.safetensors")


@torch.no_grad()
def pictures(player: Player, folder: Path) -> None:
    """Print how far pictures of the written files are from the player's, and what posing takes."""
    found: dict[str, list[float]] = {}
    seconds = []
    settings = ExportSettings(folder, "avatar", folder / "avatar.safetensors")
    avatar = Avatar(str(written(player, settings)))
    for frame in shown_frames(player):
        wanted = player.render(player.codes_of(frame), player.cameras_of(frame)).image[0]
        for kind, picture in file_pictures(player, folder, frame):
            found.setdefault(kind, []).append(psnr(picture, wanted))
        took, picture = loader_picture(player, avatar, frame)
        seconds.append(took)
        found.setdefault("avatar", []).append(psnr(picture, wanted))
    for kind, values in found.items():
        print(f"{kind}: {span(values, 'dB', 1)}")
    print(f"NumPy loader: {span(seconds, 's a frame', 3)}")
    settings = ExportSettings(folder, "ply", folder / "frames", frames="0:20")
    start = time.process_time()
    written(player, settings)
    print(f"ply sequence: {(time.process_time() - start) / 20:.2f} s a frame")


@torch.no_grad()
def fast(player: Player) -> None:
    """Print how far the fast renderer is from the plain one, at codes 1.3 times as strong as the clip's."""
    frames = shown_frames(player)[1:5]
    codes = player.codes_of(frames)
    codes = replace(codes, expression=1.3 * codes.expression)
    cameras = player.cameras_of(frames, 256, 256)
    wanted = player.render(codes, cameras).image
    for half in (True, False):
        got = FastRenderer(player, 256, 256, batch=4, half=half).render(codes, cameras).image
        print(f"fast renderer, {'half' if half else 'full'} precision: {psnr(got, wanted):.0f} dB")


def viewed(player: Player) -> None:
    """Print processor time of the viewer's pictures."""
    painter = Painter(player)
    looks: dict[str, Callable[[ViewState], ViewState]] = {
        "colour": lambda state: state, "depth": lambda state: replace(state, layer="depth"),
        "head mesh": lambda state: replace(state, mesh=True)}
    for side in VIEWED:
        camera = clip_camera(player.clip, 0, side, side)
        for name, change in looks.items():
            times = []
            for frame in range(REPEATED + 2):
                start = time.process_time()
                encode_image(painter.paint(change(ViewState(frame=frame)), camera), ".jpg", MOVING_QUALITY)
                times.append(time.process_time() - start)
            print(f"viewer, {side} x {side}, {name}: {1000 * statistics.median(times[2:]):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of train.py")
    run: Path = parser.parse_args().run
    torch.set_num_threads(1)
    player = open_player(run, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        sizes(player, run, Path(temporary))
        pictures(resized(player, SIDE), Path(temporary))
    fast(player)
    viewed(player)


if __name__ == "__main__":
    main()
