"""Drivers: whatever tells how a face moves, as codes of a head model, with the motion of the head where it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from arguments import DataSettings, TrainSettings, load_config
from flame import Head
from player import Player
from player.reference_model import load_reference_model, reference_iterations
from player.views import front_clip
from reenactment.arkit_csv import read_arkit_csv
from reenactment.motion import HeadMotion, motion_of
from reenactment.retarget import same_head
from scene.clip import CLIP_FILE, Clip, calibrated_clip, clip_of, head_of, load_clip
from scene.data import choose_head, open_data, open_dataset, open_pictures
from scene.dataset import Dataset
from scene.readers import READERS
from scene.rig import Codes

Pictures = Callable[[], Iterator[NDArray[np.uint8]]]

WANTED = ("the output folder of a training run (clip.safetensors), a data set as track.py writes (checkpoint/*.frame), "
          "or a .csv of ARKit blendshapes")


@dataclass(frozen=True, eq=False)
class Driver:
    """T frames of a face that drives; CPU.

    codes: of the model `head`. motion: of the head, None where nothing is known of it. fps: None where the source does
    not tell. pictures: gives the T pictures, uint8 RGB of one size, None where there are none. notes: for the user.
    """

    name: str
    head: Head
    codes: Codes
    motion: HeadMotion | None
    fps: float | None = None
    pictures: Pictures | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, frames: Sequence[int]) -> Driver:
        """Some of the frames, ascending."""
        index = torch.tensor(list(frames))
        return replace(self, codes=self.codes.at(index), motion=None if self.motion is None else self.motion.at(index),
                       pictures=None if self.pictures is None else _some(self.pictures, frames))


def open_driver(path: Path, head: str = "auto", source_path: Path | None = None, head_flip: Sequence[str] = (),
                avatar: Player | None = None) -> Driver:
    """Open a driver by what it is: a run's folder, a data set, a model of the reference, or a CSV of blendshapes.

    head: its head model, auto for what its files say. source_path: the data set of a run that has moved. head_flip:
    see `read_arkit_csv`. avatar: of the person that drives, None for other people; the tracking of a data set is then
    corrected as the avatar's training learnt. Raises ValueError or FileNotFoundError naming what was wanted and what
    arrived.
    """
    if path.is_file():
        if path.suffix.lower() != ".csv":
            hint = "; for a film of a face use --video" if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".avi",
                                                                                   ".webm", ".m4v") else ""
            raise ValueError(f"--driver {path}: wanted {WANTED}, got a {path.suffix or 'nameless'} file{hint}")
        if avatar is not None:
            raise ValueError(f"--same_person: wanted a data set as --driver, got the blendshapes of an app, {path}")
        take = read_arkit_csv(path, head_flip)
        return Driver(path.stem, take.head, take.codes, take.motion, take.fps, notes=take.notes)
    if not path.is_dir():
        raise FileNotFoundError(f"--driver {path}: no such file or folder; wanted {WANTED}")
    if (path / CLIP_FILE).is_file():
        if avatar is not None:
            raise ValueError(f"--same_person: wanted a data set as --driver, got a run, {path}, whose clip may be "
                             "corrected already; name the data set that it was trained on")
        return _of_run(path, source_path)
    if (path / "checkpoint").is_dir() or any(reader.recognises(path) for reader in READERS.values()):
        return _of_data(DataSettings(path, head=head, cache="stream", test_frames=0), path.resolve().name, avatar)
    if reference_iterations(path):
        data = load_reference_model(path, source_path=source_path).data
        return _of_data(replace(data, cache="stream", test_frames=0), path.resolve().name, avatar)
    listing = ", ".join(sorted(item.name for item in path.iterdir())[:6]) or "nothing"
    raise ValueError(f"--driver {path}: wanted {WANTED}, got a folder with {listing}")


def driver_of_clip(name: str, clip: Clip, head: Head, pictures: Pictures | None = None) -> Driver:
    """The frames of a clip of one camera as a driver. ValueError when its codes are not the head's."""
    got = clip.codes.expression.shape[1]
    if got != head.n_expression:
        raise ValueError(f"{name}: wanted {head.n_expression} expression codes, for it says to be of {head.name}, got "
                         f"{got}")
    motion = motion_of(head, clip.R, clip.t, clip.K[:, 0, 0] / clip.width)
    return Driver(name, head, clip.codes, motion, pictures=pictures)


def dataset_pictures(dataset: Dataset, clip: Clip) -> Pictures | None:
    """The head on black, frame by frame of a clip of one camera; None where the data set is of other frames."""
    recording, name = dataset.recording, clip.recording.cameras[0]
    frames = recording.of_camera(recording.cameras.index(name)).tolist() if name in recording.cameras else []
    if len(frames) != len(clip):
        return None

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for index in frames:
            rgba = dataset.rgba(index).astype(np.uint16)
            yield ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)

    return pictures


def run_pictures(folder: Path, clip: Clip, source_path: Path | None) -> Pictures | None:
    """Pictures of a run's own data set for a clip of one camera; None when it is gone or another one."""
    try:
        data = load_config(TrainSettings, folder).data
        data = replace(data, cache="stream", source_path=source_path or data.source_path)
        dataset = open_pictures(data)
    except (ValueError, OSError):
        return None
    return dataset_pictures(dataset, clip)


def _of_run(path: Path, source_path: Path | None) -> Driver:
    clip = front_clip(load_clip(path))
    return driver_of_clip(path.resolve().name, clip, head_of(clip), run_pictures(path, clip, source_path))


def _of_data(data: DataSettings, name: str, avatar: Player | None) -> Driver:
    source = open_data(data)
    try:
        head = choose_head(data.head, source)
    except FileNotFoundError as error:
        raise ValueError(f"--driver {data.source_path}: its codes belong to head '{source.head or 'flame'}', which "
                         f"does not open: {error}. --driver_head names another model") from error
    dataset = open_dataset(data, source)
    clip = clip_of(data, source, head, dataset)
    clip = front_clip(clip if avatar is None else _calibrated(clip, head, avatar, data.source_path))
    return driver_of_clip(name, clip, head, dataset_pictures(dataset, clip))


def _calibrated(clip: Clip, head: Head, avatar: Player, where: Path) -> Clip:
    """The clip of the avatar's person with its tracking corrected. ValueError where that cannot be."""
    calibration = avatar.clip.calibration
    if calibration is None:
        raise ValueError(f"--same_person: {avatar.name}: wanted a calibration in its {CLIP_FILE}, found none: its "
                         "tracking was not refined, or no corrections could be predicted from it, or it was trained "
                         "before runs kept one (train.py with its -s, -m and --resume True adds it)")
    if not same_head(head, avatar.head):
        raise ValueError(f"--same_person: --driver {where}: wanted codes of {avatar.head.name}, for which corrections "
                         f"were learnt, got those of {head.name}")
    try:
        return calibrated_clip(clip, calibration)
    except ValueError as error:
        raise ValueError(f"--same_person: --driver {where}: {error}") from None


def _some(pictures: Pictures, frames: Sequence[int]) -> Pictures:
    wanted = set(frames)
    return lambda: (picture for index, picture in enumerate(pictures()) if index in wanted)
