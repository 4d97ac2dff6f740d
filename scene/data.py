"""The data set that the settings name: its source, its frames, and the head model that it was tracked with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from arguments import DataSettings
from flame import Head, check_head_matches, load_head
from flame.load import LOADERS
from scene.dataset import Dataset
from scene.readers import AUTO, READERS, Source, open_source
from scene.split import Split
from utils.processes import process_rank


def open_data(data: DataSettings) -> Source:
    """The data set that the settings name, complete. Errors name the file or flag.

    The head model is loaded only where the layout cannot be read without it.
    """
    source = _open(data)
    return source if source.pending is None else source.completed(choose_head(data.head, source))


def open_pictures(data: DataSettings) -> Dataset:
    """The pictures of the data set, for those who have its codes and cameras from a clip; no head model is needed."""
    return open_dataset(data, replace(_open(data), pending=None))


def _open(data: DataSettings) -> Source:
    flags = {f"--{reader.flag}": name for name, reader in READERS.items() if reader.flag and getattr(data, reader.flag)}
    asked = flags if data.layout == AUTO else flags | {f"--layout {data.layout}": data.layout}
    if len(set(asked.values())) > 1:
        raise ValueError(f"{' and '.join(asked)}: a data set has one layout, choose one")
    return open_source(data.source_path, next(iter(asked.values()), AUTO))


def open_dataset(data: DataSettings, source: Source, progress: bool = True) -> Dataset:
    """The frames of `source`, split and sized as the settings say. progress: show a bar while they are read."""
    split = Split(data.split, None if data.test_frames < 0 else data.test_frames, blocks=data.test_blocks,
                  cameras=data.test_cameras)
    first = process_rank() == 0  # of several that train, the first one scores held-out frames and shows its progress
    return Dataset(source, split, data.resolution, data.cache, progress=first and progress, held_out=first)


def head_name(name: str, source: Source) -> str:
    """The head model to load for `--head name`: auto is what the data says, else FLAME; files by their full path."""
    chosen = (source.head or "flame") if name == "auto" else name
    return str(Path(chosen).resolve()) if Path(chosen).suffix in LOADERS else chosen


def choose_head(name: str, source: Source) -> Head:
    """The head model the data was tracked with (see `head_name`), with the identity's static offset.

    ValueError when its mesh does not fit the data's.
    """
    head = load_head(head_name(name, source))
    if source.mesh is not None:
        check_head_matches(head, source.mesh.vertices, source.mesh.triangles, "canonical.obj of the data set")
    return head if source.static_offset is None else head.with_offset(torch.from_numpy(source.static_offset.copy()))
