"""What a run keeps of its data set, so that the avatar plays without it: codes, cameras and split of all frames.

    OUT/clip.safetensors    codes.*, R, t, K, train, test; of several cameras also time and view; static_offset where
                            the identity has one; calibration.* where the tracker's errors were learnt; in the header:
                            format version, head model, picture size, names of several cameras
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arguments import DataSettings
from flame import Head, load_head
from flame.codes import fit_code
from gaussian_renderer import Cameras
from scene.calibration import PREFIX, Calibration
from scene.corrections import Axes, Columns, corrected_cameras, orthonormal
from scene.data import head_name
from scene.dataset import Dataset
from scene.readers import Source
from scene.recording import Recording
from scene.rig import CodeChange, Codes
from scene.sway import CODES, Sway
from utils.atomic import write_with
from utils.plain_json import parse_json

CLIP_FILE = "clip.safetensors"
FORMAT_VERSION = 1
_HEADER = "clip"
_RECORDED = ("time", "view")
_CODE_WIDTHS = {"expression": None, "jaw": 6, "eyes": 12, "eyelids": 2, "neck": 6, "sway": CODES}


@dataclass(frozen=True, eq=False)
class Clip:
    """T tracked frames without their pictures; CPU tensors.

    codes: float32, fitted to the head. R [T,3,3], t [T,3], K [T,3,3]: float32 cameras at width x height pixels.
    train, test: int64 frame numbers, ascending. head: the head model that the codes belong to, as `load_head` takes it.
    recorded: which frame shows which moment, by which of several cameras; None: one camera, a moment a frame. Where
    their pictures differ in size, each lies in the middle of width x height pixels.
    static_offset: [V,3] metres that the identity adds to its template, or None. calibration: where codes and cameras
    were corrected, what corrects other tracking of the same person by the same tracker likewise; else None.
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
    recorded: Recording | None = None
    static_offset: Tensor | None = None
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.R)

    @property
    def recording(self) -> Recording:
        """`recorded`, or that of a single camera."""
        return self.recorded or Recording.single(len(self))

    def of_camera(self, number: int) -> Clip:
        """The frames of one of several cameras, in order of time, as a clip of that camera alone."""
        chosen = torch.from_numpy(self.recording.of_camera(number))
        train, test = (torch.nonzero(torch.isin(chosen, part))[:, 0] for part in (self.train, self.test))
        alone = replace(Recording.single(len(chosen)), cameras=self.recording.cameras[number:number + 1])
        return replace(self, codes=self.codes.at(chosen), R=self.R[chosen], t=self.t[chosen], K=self.K[chosen],
                       train=train, test=test, recorded=alone)


def head_of(clip: Clip) -> Head:
    """The head model that a clip belongs to, with its static offset. Raises as `load_head` does."""
    head = load_head(clip.head)
    return head if clip.static_offset is None else head.with_offset(clip.static_offset)


def clip_of(data: DataSettings, source: Source, head: Head, dataset: Dataset) -> Clip:
    """What is kept of a data set. The identity of the first frame serves the whole clip.

    ValueError where a code is cut that is not zero (see `fit_code`).
    """

    def fitted(codes: Tensor, length: int, name: str) -> Tensor:
        return torch.from_numpy(fit_code(codes.numpy(), length, name, str(data.source_path)))

    codes = Codes(shape=fitted(dataset.shape[0], head.n_shape, "shape"),
                  expression=fitted(dataset.expression, head.n_expression, "expression"),
                  jaw=dataset.jaw, eyes=dataset.eyes, eyelids=dataset.eyelids, neck=dataset.neck)
    offset = source.static_offset
    return Clip(codes, dataset.R, dataset.t, dataset.K_in_window, dataset.width, dataset.height,
                torch.from_numpy(dataset.train_indices), torch.from_numpy(dataset.test_indices),
                head_name(data.head, source), dataset.recording if dataset.recording.several else None,
                None if offset is None else torch.from_numpy(offset.copy()))


def swayed_clip(clip: Clip, sway: Sway) -> Clip:
    """`clip` with the codes that tell `sway` how each moment's head is posed, in its camera with the most pictures."""
    pictures = torch.from_numpy(clip.recording.reference[clip.recording.time])
    codes = sway.codes(clip.R[pictures], clip.t[pictures])
    return replace(clip, codes=replace(clip.codes, sway=codes))


def corrected_clip(clip: Clip, cameras: Cameras, change: CodeChange) -> Clip:
    """`clip` with these cameras and with `change` [T,...] added to its codes."""
    codes, device = clip.codes, clip.codes.expression.device
    expression = codes.expression.clone()
    expression[:, :change.expression.shape[1]] += change.expression.to(device)
    eyes = [orthonormal(codes.eyes[:, i:i + 6] + change.eyes[:, i:i + 6].to(device)) for i in (0, 6)]
    codes = replace(codes, expression=expression, jaw=orthonormal(codes.jaw + change.jaw.to(device)),
                    eyes=torch.cat(eyes, dim=1), eyelids=codes.eyelids + change.eyelids.to(device),
                    sway=change.swayed(codes.sway))
    return replace(clip, codes=codes, R=cameras.R.to(clip.R.device), t=cameras.t.to(clip.t.device))


def calibrated_clip(clip: Clip, calibration: Calibration) -> Clip:
    """`clip` as a tracker left it, with the corrections that `calibration` predicts for each of its moments.

    ValueError where poses are told in another camera's axes than those of the calibration.
    """
    recording = clip.recording
    camera = recording.main_camera
    if camera != calibration.camera:
        raise ValueError(f"camera: wanted pictures of {calibration.camera or 'a single camera'}, before which the "
                         f"tracker's errors were learnt, got those of {camera or 'a single camera'}")
    reference, moments = torch.from_numpy(recording.reference), torch.from_numpy(recording.time)
    rows = calibration.corrections(clip.codes.at(reference), clip.R[reference], clip.t[reference])[moments].float()
    turn, shift, change = Columns(calibration.expressions).parts(rows)
    cameras = corrected_cameras(Cameras(clip.R, clip.t, clip.K, clip.width, clip.height), turn, shift,
                                calibration.center.float(), Axes.of(clip.R, reference[moments]))
    return corrected_clip(clip, cameras, change)


def save_clip(clip: Clip, folder: Path) -> None:
    """Write `clip` into `folder`, atomically. Raises WriteError."""
    codes = {f"codes.{item.name}": getattr(clip.codes, item.name) for item in fields(Codes)}
    tensors = {name: value for name, value in codes.items() if value is not None}
    tensors |= {name: getattr(clip, name) for name in ("R", "t", "K", "train", "test")}
    if clip.static_offset is not None:
        tensors["static_offset"] = clip.static_offset
    if clip.calibration is not None:
        tensors |= clip.calibration.tensors()
    header = {"format_version": FORMAT_VERSION, "head": clip.head, "width": clip.width, "height": clip.height}
    if clip.recorded is not None and clip.recorded.several:
        tensors |= {name: torch.from_numpy(getattr(clip.recorded, name)) for name in _RECORDED}
        header["cameras"] = list(clip.recorded.cameras)
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
    told = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
    _check_tensors(tensors, path)
    codes = Codes(**{item.name: tensors.get(f"codes.{item.name}") for item in fields(Codes)})  # type: ignore[arg-type]
    cameras = {name: tensors[name] for name in ("R", "t", "K", "train", "test")}
    recorded = _read_recording(size.pop("cameras", None), tensors, path)
    clip = Clip(codes=codes, **cameras, **size, recorded=recorded, static_offset=tensors.get("static_offset"))
    return replace(clip, calibration=_read_calibration(told, clip, path))


def _read_calibration(tensors: dict[str, Tensor], clip: Clip, path: Path) -> Calibration | None:
    try:
        calibration = Calibration.of_tensors(tensors, clip.recording.main_camera)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    most = clip.codes.expression.shape[1]
    if calibration is not None and calibration.expressions > most:
        raise ValueError(f"{path}: calibration.weights: wanted at most {most} expressions, as there are codes, got "
                         f"{calibration.expressions}")
    return calibration


def _read_recording(cameras: Any, tensors: dict[str, Tensor], path: Path) -> Recording | None:
    """Of several cameras; None where the header names none."""
    there = [name for name in _RECORDED if name in tensors]
    if cameras is None and not there:
        return None
    named = isinstance(cameras, list) and len(set(map(str, cameras))) == len(cameras) > 1
    if not named or not all(isinstance(name, str) for name in cameras) or len(there) < len(_RECORDED):
        raise ValueError(f"{path}: several cameras: wanted their names in the header, time and view, got names "
                         f"{str(cameras)[:60]} and {there or 'neither'}")
    time, view = (tensors[name].numpy() for name in _RECORDED)
    gapless = np.array_equal(np.unique(time), np.arange(time.max() + 1))
    if not (gapless and 0 <= view.min() <= view.max() < len(cameras)):
        raise ValueError(f"{path}: time and view: wanted moments 0, 1, ... without gaps and cameras 0 to "
                         f"{len(cameras) - 1}, got others")
    return Recording(time, view, tuple(cameras))


def _read_header(header: dict[str, str] | None, path: Path) -> dict[str, Any]:
    """width, height, head, and the names of several cameras."""
    try:
        values = parse_json((header or {})[_HEADER])
        version = values.pop("format_version")
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: wanted the header that save_clip writes, got {header!s:.200}") from None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: wanted clip format {FORMAT_VERSION}, got {version!r}")
    wanted = {"head": str, "width": int, "height": int} | ({"cameras": list} if "cameras" in values else {})
    if {name: type(value) for name, value in values.items()} != wanted or min(values["width"], values["height"]) < 1:
        raise ValueError(f"{path}: header: wanted head and a positive width and height, got {values!s:.200}")
    return values


def _check_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    wanted: dict[str, list[int | None]] = {"codes.shape": [None], "R": [None, 3, 3], "t": [None, 3], "K": [None, 3, 3]}
    wanted |= {f"codes.{name}": [None, width] for name, width in _CODE_WIDTHS.items()}
    wanted |= {name: [None] for name in ("train", "test", *_RECORDED)}
    wanted["static_offset"] = [None, 3]
    optional = {"codes.neck", "codes.sway", "static_offset", *_RECORDED}
    missing, unexpected = sorted(wanted.keys() - optional - tensors.keys()), sorted(tensors.keys() - wanted)
    if missing or unexpected:
        raise ValueError(f"{path}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")
    frames = tensors["R"].shape[:1]
    for name, tensor in tensors.items():
        indices, whole = name in ("train", "test"), name in ("train", "test", *_RECORDED)
        shape, dtype = wanted[name], torch.int64 if whole else torch.float32
        fits = tensor.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=True))
        if not fits or tensor.dtype != dtype:
            raise ValueError(f"{path}: {name}: wanted {dtype} {shape}, got {tensor.dtype} {list(tensor.shape)}")
        if indices and tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < frames[0]:
            raise ValueError(f"{path}: {name}: wanted frames 0 to {frames[0] - 1}, got others")
        if not indices and name not in ("codes.shape", "static_offset") and tensor.shape[:1] != frames:
            raise ValueError(f"{path}: {name}: wanted {frames[0]} frames as R has, got {len(tensor)}")
        if not whole and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name}: holds a number that is not finite")
