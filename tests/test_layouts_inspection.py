"""Data of other programs pass the look before training, and a convention that is not the layout's is found by it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene.convert import ConvertSettings, convert
from scene.inspection import inspect_data
from scene.writers import WRITERS
from tests.tracked_head import subject_of, write_tracked_head
from utils.arrays import read_npz, write_npz

FRAMES = 12


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tracked_head(tmp_path_factory.mktemp("tracked") / "data", FRAMES)


@pytest.fixture(scope="module")
def folders(tracked: Path) -> dict[str, Path]:
    """The same data in every layout."""
    made = {layout: tracked.parent / layout for layout in WRITERS}
    for layout, folder in made.items():
        convert(ConvertSettings(tracked, folder, layout))
    return made


@pytest.mark.parametrize("layout", WRITERS)
def test_nothing_is_said_of_data_that_are_right(folders: dict[str, Path], layout: str) -> None:
    assert [finding.text for finding in inspect_data(subject_of(folders[layout]))] == []


Change = Callable[[Path], None]


@contextmanager
def frames_of(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The frames of a JSON file, to be changed."""
    value = json.loads(path.read_text())
    yield value["frames"]
    path.write_text(json.dumps(value))


def matrices(name: str, key: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(folder: Path) -> None:
        for file in folder.glob(name):
            with frames_of(file) as frames:
                for frame in frames:
                    frame[key] = change(np.array(frame[key])).tolist()
    return apply


def arrays(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(folder: Path) -> None:
        for file in (folder / "flame_param").iterdir():
            values = read_npz(file)
            write_npz(file, values | {name: change(values[name])})
    return apply


def other_axes(matrix: np.ndarray) -> np.ndarray:
    """Camera to world with y and z turned round."""
    return matrix @ np.diag([1.0, -1, -1, 1])


def unscaled(matrix: np.ndarray) -> np.ndarray:
    return np.column_stack([matrix[:, :3], matrix[:, 3] / 4])


WRONG: dict[str, tuple[str, Change, str]] = {
    "OpenCV's axes": ("vhap", matrices("transforms*.json", "transform_matrix", other_axes), "behind the.*OpenGL"),
    "millimetres": ("vhap", arrays("translation", lambda t: 1000 * t), "much too small|outside the picture|behind"),
    "degrees": ("vhap", arrays("jaw_pose", lambda turn: turn + np.array([[15.0, 0, 0]])), "jaw is turned by"),
    "neck in degrees": ("vhap", arrays("neck_pose", lambda turn: turn + np.array([[0, 15.0, 0]])), "neck is turned by"),
    "w2c for c2w": ("codes", matrices("transforms.json", "transform_matrix", np.linalg.inv), "behind|outside|inside"),
    "OpenGL's axes": ("insta_transforms", matrices("transforms.json", "transform_matrix", other_axes), "behind the"),
    "a head of plain size": ("imavatar", matrices("flame_params.json", "world_mat", unscaled), "inside the mask|large"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_convention_is_found(folders: dict[str, Path], tmp_path: Path, case: str) -> None:
    layout, change, message = WRONG[case]
    folder = tmp_path / "data"
    shutil.copytree(folders[layout], folder)
    change(folder)
    found = [finding.text for finding in inspect_data(subject_of(folder))]
    assert any(re.search(message, text) for text in found), found
