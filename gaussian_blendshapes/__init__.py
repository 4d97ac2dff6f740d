"""Gaussian blendshape head avatars as a library.

    import gaussian_blendshapes as gb

    gb.train("DATA", "OUT", iterations=7000)
    player = gb.open_player("OUT")
    picture = player.render(player.codes_of(0), player.cameras_of(0)).image

In a checkout this works from its root; installed (`pip install .`), the whole program lies inside this package and no
other name is put on anyone's path. docs/library.md says more.
"""

from __future__ import annotations

import dataclasses
import difflib
import signal
import threading
import typing
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import RasterizeOutput, rasterize

import player as _player
from arguments import TrainSettings
from flame import Head, load_head
from player import Player
from utils.devices import resolve_device

__all__ = ["Head", "Player", "RasterizeOutput", "load_head", "open_player", "rasterize", "train"]


def open_player(model_path: str | Path, device: str | torch.device = "auto", iteration: int = -1,
                source_path: str | Path | None = None) -> Player:
    """Open the avatar of a run's output folder.

    device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N" or torch's. iteration: a checkpoint's, -1 the
    newest. source_path: the data set of a folder trained with the published program. Raises ValueError,
    FileNotFoundError and CheckpointError naming what is missing or damaged.
    """
    source = None if source_path is None else Path(source_path)
    return _player.open_player(Path(model_path), resolve_device(str(device)), iteration, source)


def train(source_path: str | Path, model_path: str | Path, **settings: Any) -> Player:
    """Train an avatar as `python train.py` does, and open it.

    settings: the flags of train.py by their names, such as iterations=2000 or device="cpu". The run writes the same
    files, seeds Python, NumPy and torch, and stops with a checkpoint on Ctrl-C, so it needs the main thread. Raises
    ValueError for a setting that does not exist, a folder that holds a run already, or data that cannot be used.
    """
    import train as command  # TensorBoard, which takes its time, is needed here only

    if threading.current_thread() is not threading.main_thread():
        raise ValueError("train: wanted a call from the main thread, which Ctrl-C reaches; got one from another thread")
    run = _settings_of({"source_path": Path(source_path), "model_path": Path(model_path), **settings})
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        command.train(run)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return open_player(model_path, run.run.device)


def _settings_of(values: dict[str, Any]) -> TrainSettings:
    """The flags, each in the group that declares it."""
    groups: dict[str, Any] = {name: hint for name, hint in typing.get_type_hints(TrainSettings).items()
                              if dataclasses.is_dataclass(hint)}
    known = {field.name: group for group, kind in groups.items() for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"train: there is no setting {name!r}{f'; did you mean {near[0]}?' if near else ''}")
    return TrainSettings(**{group: kind(**{name: value for name, value in values.items() if known[name] == group})
                            for group, kind in groups.items()})
