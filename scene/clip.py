"""What a run keeps of its data set, so that the avatar plays without it: codes, cameras and split of all frames.

    OUT/clip.safetensors    codes.*, R, t, K, train, test; in the header: format version, head model, picture size
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arguments import DataSettings
from flame import Head, check_head_matches, load_head
from flame.codes import fit_code
from flame.load import LOADERS
from scene.dataset import Dataset
from scene.readers import AUTO, READERS, Source, open_source
from scene.rig import Codes
from scene.split import Split
from utils.atomic import write_with
from utils.processes import process_rank

CLIP_FILE = "clip.safetensors"
FORMAT_VERSION = 1
_HEADER = "clip"
_CODE_WIDTHS = {"expression": None, "jaw": 6, "eyes": 12, "eyelids": 2, "neck": 6}


@dataclass(frozen=True, eq=False)
class Clip:
    """T tracked frames without their pictures; CPU tensors.

    codes: float32, fitted to the head. R [T,3,3], t [T,3], K [T,3,3]: float32 cameras at width x height pixels.
    train, test: int64 frame numbers, ascending. head: the head model that the codes belong to, as `load_head` takes it.
    """

    codes: Codes
    R: Tensor
    t: Tensor
    K: Tensor
    width: int
    height: int
    train: Tensor
    test: Tensor
    head: str

    def __len__(self) -> int:
        return len(self.R)


def open_data(data: DataSettings) -> Source:
    """The data set that the settings name. Errors name the file or flag."""
    flags = {f"--{reader.flag}": name for name, reader in READERS.items() if reader.flag and getattr(data, reader.flag)}
    asked = flags if data.layout == AUTO else flags | {f"--layout {data.layout}": data.layout}
    if len(set(asked.values())) > 1:
        raise ValueError(f"{' and '.join(asked)}: a data set has one layout, choose one")
    return open_source(data.source_path, next(iter(asked.values()), AUTO))


def open_dataset(data: DataSettings, source: Source) -> Dataset:
    """The frames of `source`, split and sized as the settings say."""
    split = Split(data.split, None if data.test_frames < 0 else data.test_frames, blocks=data.test_blocks)
    first = process_rank() == 0  # of several that train, the first one scores held-out frames and shows its progress
    return Dataset(source, split, data.resolution, data.cache, progress=first, held_out=first)


def head_name(name: str, source: Source) -> str:
    """The head model to load for `--head name`: auto is what the data says, else FLAME; files by their full path."""
    chosen = (source.head or "flame") if name == "auto" else name
    return str(Path(chosen).resolve()) if Path(chosen).suffix in LOADERS else chosen


def choose_head(name: str, source: Source) -> Head:
    """The head model the data was tracked with (see `head_name`). ValueError when its mesh does not fit the data's."""
    head = load_head(head_name(name, source))
    if source.mesh is not None:
        check_head_matches(head, source.mesh.vertices, source.mesh.triangles, "canonical.obj of the data set")
    return head


def clip_of(data: DataSettings, source: Source, head: Head, dataset: Dataset) -> Clip:
    """What is kept of a data set. The identity of the first frame serves the whole clip.

    ValueError where a code is cut that is not zero (see `fit_code`).
    """

    def fitted(codes: Tensor, length: int, name: str) -> Tensor:
        return torch.from_numpy(fit_code(codes.numpy(), length, name, str(data.source_path)))

    codes = Codes(shape=fitted(dataset.shape[0], head.n_shape, "shape"),
                  expression=fitted(dataset.expression, head.n_expression, "expression"),
                  jaw=dataset.jaw, eyes=dataset.eyes, eyelids=dataset.eyelids)
    return Clip(codes, dataset.R, dataset.t, dataset.K, dataset.width, dataset.height,
                torch.from_numpy(dataset.train_indices), torch.from_numpy(dataset.test_indices),
                head_name(data.head, source))


def save_clip(clip: Clip, folder: Path) -> None:
    """Write `clip` into `folder`, atomically. Raises WriteError."""
    codes = {f"codes.{item.name}": getattr(clip.codes, item.name) for item in fields(Codes)}
    tensors = {name: value for name, value in codes.items() if value is not None}
    tensors |= {name: getattr(clip, name) for name in ("R", "t", "K", "train", "test")}
    header = {"format_version": FORMAT_VERSION, "head": clip.head, "width": clip.width, "height": clip.height}
    write_with(folder / CLIP_FILE, lambda path: save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path,
        {_HEADER: json.dumps(header)}))


def load_clip(folder: Path) -> Clip:
    """Read what `save_clip` wrote. Raises FileNotFoundError, and ValueError naming the file and the damage."""
    path = folder / CLIP_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; train.py writes it at the start of a run")
    try:
        with safe_open(path, framework="pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    size = _read_header(header, path)
    _check_tensors(tensors, path)
    codes = Codes(**{item.name: tensors.get(f"codes.{item.name}") for item in fields(Codes)})  # type: ignore[arg-type]
    cameras = {name: tensors[name] for name in ("R", "t", "K", "train", "test")}
    return Clip(codes=codes, **cameras, **size)


def _read_header(header: dict[str, str] | None, path: Path) -> dict[str, Any]:
    """width, height and head."""
    try:
        values = json.loads((header or {})[_HEADER])
        version = values.pop("format_version")
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: wanted the header that save_clip writes, got {header}") from None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: wanted clip format {FORMAT_VERSION}, got {version!r}")
    wanted = {"head": str, "width": int, "height": int}
    if {name: type(value) for name, value in values.items()} != wanted or min(values["width"], values["height"]) < 1:
        raise ValueError(f"{path}: header: wanted head and a positive width and height, got {values}")
    return values


def _check_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    wanted: dict[str, list[int | None]] = {"codes.shape": [None], "R": [None, 3, 3], "t": [None, 3], "K": [None, 3, 3]}
    wanted |= {f"codes.{name}": [None, width] for name, width in _CODE_WIDTHS.items()}
    wanted |= {"train": [None], "test": [None]}
    missing, unexpected = sorted(wanted.keys() - {"codes.neck"} - tensors.keys()), sorted(tensors.keys() - wanted)
    if missing or unexpected:
        raise ValueError(f"{path}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")
    frames = tensors["R"].shape[:1]
    for name, tensor in tensors.items():
        indices = name in ("train", "test")
        shape, dtype = wanted[name], torch.int64 if indices else torch.float32
        fits = tensor.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=True))
        if not fits or tensor.dtype != dtype:
            raise ValueError(f"{path}: {name}: wanted {dtype} {shape}, got {tensor.dtype} {list(tensor.shape)}")
        if indices and tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < frames[0]:
            raise ValueError(f"{path}: {name}: wanted frames 0 to {frames[0] - 1}, got others")
        if not indices and name != "codes.shape" and tensor.shape[:1] != frames:
            raise ValueError(f"{path}: {name}: wanted {frames[0]} frames as R has, got {len(tensor)}")
        if not indices and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name}: holds a number that is not finite")
