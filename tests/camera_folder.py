"""A tiny data set of several cameras, written by hand: pictures of constant colour, all of one head."""

from __future__ import annotations

from pathlib import Path

from tests.tracker_folder import HEIGHT, WIDTH, image, record, write_png, write_record

OTHER = (WIDTH // 2 + 4, HEIGHT)  # width, height of the pictures of the last camera where it differs


def write_cameras(folder: Path, names: tuple[str, ...] = ("a", "b", "c"), frames: int = 4, mixed: bool = False) -> Path:
    """A well-formed data set in the layout "cameras"; `mixed`: the last camera's pictures have another size.

    Picture i of camera k is `image(i + 7 * k)`.
    """
    for number, name in enumerate(names):
        size = OTHER if mixed and name == names[-1] else (WIDTH, HEIGHT)
        for index in range(frames):
            mine = folder / "cameras" / name
            write_record(mine, index, record(index, *size))
            write_png(mine / "images" / f"{index:05d}.png", image(index + 7 * number, *size))
    return folder
