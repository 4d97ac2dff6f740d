"""The pictures of the README, from a trained and tested run: python -m scripts.make_pictures output/demo

Writes avatar.webp, a short loop of expressions on a turning head, and demo.png, held-out frames beside the avatar.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame.rotations import matrix_from_axis_angle
from gaussian_renderer import Cameras
from player import Player, open_player
from player.views import front_frame
from scene.checkpoint import CheckpointError
from scene.rig import Codes
from utils.atomic import write_bytes
from utils.images import encode_image, read_rgb
from utils.report.folder import SplitFolder
from viewer.state import EXPRESSION, ViewState, codes_of

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images"
FPS, SECONDS, SIDE = 25, 3.6, 288
LARGEST = 1_500_000  # bytes of the animation
QUALITIES = (82, 74, 66, 56, 44, 30)
BACKGROUND = (0.125, 0.141, 0.157)
HEAD_SHARE = 0.80  # of the picture's height that the head's mesh takes; hair needs the rest
MOST_YAW, PITCH = math.radians(20), math.radians(3)  # of the camera, well within what clips show
SHARE_OF_YAW = 0.9  # of the clip's own turns

# Key faces of the loop at rising places in [0,1), by expressions of ARKit-like heads; between them cosine ramps.
REST = {"mouthSmile": 0.35, "eyeWide": 0.3}
FACES: tuple[tuple[float, dict[str, float]], ...] = (
    (0.00, REST),
    (0.16, {"mouthSmile": 0.8, "cheekSquint": 0.5, "mouthUpperUp": 0.4, "jawOpen": 0.1}),
    (0.34, {"jawOpen": 0.75, "browInnerUp": 0.6, "eyeWide": 0.6}),
    (0.50, {"eyeBlink": 1.0, "mouthSmile": 0.35}),
    (0.62, {"mouthPucker": 0.8, "browOuterUp": 0.4, "eyeWide": 0.3}),
    (0.80, {"mouthSmile": 0.75, "mouthUpperUp": 0.55, "jawOpen": 0.35, "browInnerUp": 0.3}),
    (0.93, REST),
)

Image = NDArray[np.uint8]


def face_at(place: float) -> dict[str, float]:
    """Expressions at a place of the loop, 0 to 1; 1 is 0 again."""
    keys = [*FACES, (1.0, FACES[0][1])]
    index = max(i for i, (at, _) in enumerate(keys[:-1]) if at <= place % 1)
    (start, before), (end, after) = keys[index], keys[index + 1]
    share = 0.5 - 0.5 * math.cos(math.pi * (place % 1 - start) / (end - start))
    return {name: before.get(name, 0) + share * (after.get(name, 0) - before.get(name, 0)) for name in before | after}


def loop_codes(player: Player, places: Sequence[float]) -> Iterator[Codes]:
    """Codes [1,...] at places of the loop: key faces where the head's expressions have names, else the clip there and
    back (FLAME's are numbered)."""
    names, clip = player.expression_names, player.clip
    named = "jawOpen" in names
    for place in places:
        if named:
            moved = _sided(face_at(place), names)
            state = ViewState(base="neutral", overrides={EXPRESSION + name: value for name, value in moved.items()})
            yield codes_of(state, player.head, clip.codes)
        else:
            frame = round((len(clip) - 1) * (1 - abs(1 - 2 * place)))
            yield clip.codes.at(slice(frame, frame + 1))


def _sided(face: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Names without a side become left and right."""
    return {full: value for name, value in face.items() for full in (name, name + "Left", name + "Right")
            if full in names}


def loop_cameras(player: Player, side: int, places: Sequence[float]) -> Iterator[Cameras]:
    """Cameras that swing around the head as far as the clip shows it, the head in the middle of side x side pixels."""
    clip = player.clip
    own = player.cameras_of(front_frame(clip), side)
    rest = player.vertices(player.neutral_codes())[0]
    middle = 0.5 * (rest.amin(0) + rest.amax(0))
    centre = own.R[0] @ middle + own.t[0]
    turns = torch.atan2(clip.R[:, 0, 2].abs(), clip.R[:, 2, 2].abs())
    yaw = min(MOST_YAW, SHARE_OF_YAW * float(turns.max()))
    K = own.K.clone()
    K[:, 0, 0] = K[:, 1, 1] = HEAD_SHARE * side * centre[2] / (rest[:, 1].amax() - rest[:, 1].amin())
    K[:, :2, 2] = 0.5 * side - K[0, 0, 0] * centre[:2] / centre[2]
    for place in places:
        angle = 2 * math.pi * place
        turn = matrix_from_axis_angle(own.R.new_tensor([[PITCH * math.sin(2 * angle), yaw * math.sin(angle), 0.0]]))[0]
        R, t = turn @ own.R[0], turn @ (own.t[0] - centre) + centre
        yield Cameras(R[None], t[None], K, side, side)


def loop_pictures(player: Player, side: int, count: int) -> list[Image]:
    """`count` pictures [side,side,3] of one turn of the loop, RGB."""
    places = [k / count for k in range(count)]
    background = torch.tensor(BACKGROUND, device=player.device)
    return [_bytes(player.render(codes.to(player.device), camera, background).image[0])
            for codes, camera in zip(loop_codes(player, places), loop_cameras(player, side, places), strict=True)]


def _bytes(image: Tensor) -> Image:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def encode_loop(pictures: Sequence[Image], largest: int = LARGEST) -> bytes:
    """An endless WebP in the best quality that `largest` bytes hold. ValueError when none does."""
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pictures]
    animation.durations = [round(1000 / FPS)] * len(pictures)
    for quality in QUALITIES:
        done, data = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if done and len(data) <= largest:
            return bytes(data)
    raise ValueError(f"--side: {len(pictures)} pictures of {pictures[0].shape[1]} pixels a side do not fit into "
                     f"{largest:,} bytes; make them smaller")


def held_out(run: Path, frames: Sequence[int]) -> Image:
    """Side-by-side pictures that test.py left, one above the other; without `frames` one of the best and one of the
    middle. ValueError names what is missing.
    """
    folder = SplitFolder(run, "test")
    if not (folder.path / "evaluation.json").is_file():
        raise ValueError(f"{folder.path}: no evaluation.json; run test.py --model_path {run} first")
    chosen = list(frames) or [group[0] for kind in ("best", "median") if (group := folder.record["selection"][kind])]
    paths = [folder.path / "side_by_side" / f"{frame:05d}.jpg" for frame in chosen]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: missing; test.py keeps the frames that its --pictures names")
    return np.concatenate([read_rgb(path) for path in paths])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of train.py and test.py")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of the animation")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the loop")
    parser.add_argument("--frames", type=int, nargs="*", default=[], help="held-out frames for demo.png")
    flags = parser.parse_args(arguments)
    try:
        player = open_player(flags.run, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        rows = held_out(flags.run, flags.frames)
        loop = encode_loop(loop_pictures(player, flags.side, max(2, round(FPS * flags.seconds))))
        flags.out.mkdir(parents=True, exist_ok=True)
        write_bytes(flags.out / "avatar.webp", loop)
        write_bytes(flags.out / "demo.png", encode_image(rows, ".png"))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"make_pictures.py: {error}")
    print(f"{flags.out}: avatar.webp ({len(loop) / 1e6:.2f} MB), demo.png")


if __name__ == "__main__":
    main()
