"""Reading heads from disk: the shipped open head, any .npz in its layout, FLAME pickles of 2020 and 2023."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flame.head import JOINT_NAMES, Head, MouthPlacement
from flame.landmarks import LandmarkEmbedding, flame_embedding, open_head_embedding
from flame.mouth import mouth_from_lips, mouth_from_teeth
from flame.region_files import region_overrides
from flame.regions import Floats, Geometry, Indices, derive_regions, labelled_regions
from utils.arrays import read_npy, read_npz
from utils.safe_pickle import load_flame_pickle

_DATA = Path(__file__).resolve().parent.parent / "data"
OPEN_HEAD = _DATA / "open_head" / "open_head.npz"
FLAME_FOLDER = _DATA / "FLAME"
FLAME_2020 = ("generic_model.pkl", "flame2020.pkl")
FLAME_2023 = ("flame2023.pkl", "flame2023_Open.pkl")
FLAME_FILES = {"flame": (*FLAME_2020, *FLAME_2023), "flame2020": FLAME_2020, "flame2023": FLAME_2023}
"""What a name stands for: the first of these files that the user has put in data/FLAME."""

FLAME_IDENTITIES = 300
"""FLAME's shapedirs hold 300 identity columns, then the expressions (100)."""

TEETH_VERTICES = 120
"""GaussianAvatars' FLAME ends with so many vertices of teeth (5143 for 5023), which no eyelid file knows."""

_SHARED_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
_OPEN_KEYS = (*_SHARED_KEYS, "n_shape", "exp_names", "l_eyelid", "r_eyelid")
_ROOT_ENTRY = 2**32 - 1  # FLAME's uint32 for "no parent"
_JAW_EXPRESSIONS = {"jawOpen": "jaw_open_rotvec", "jawLeft": "jaw_left_rotvec", "jawRight": "jaw_right_rotvec"}

_log = logging.getLogger(__name__)


def load_head(source: str | Path, regions: str | Path | None = None) -> Head:
    """Load a parametric head as float32 CPU tensors.

    source: "open" (the head that ships in data/open_head), "flame", "flame2020" or "flame2023" (the first of its
    `FLAME_FILES` in data/FLAME), a path of a .npz in that head's layout (its README lists the keys), or of a FLAME
    .pkl: 2020, 2023, 2023 Open, or one with the teeth that GaussianAvatars appends. FLAME pickles hold no eyelids:
    `l_eyelid.npy` and `r_eyelid.npy` [V,3] beside the pickle are used if they exist, zeros otherwise; so is
    `mediapipe_landmark_embedding.npz`, which tracking needs. What is missing is said once. Pickles are read without
    executing them.
    regions: a masks pickle or a folder that replaces regions, see `flame.region_files.region_overrides`.

    Raises FileNotFoundError, ValueError naming the file and the key that is missing or has a wrong shape, and
    `utils.safe_pickle`'s UnsafePickleError and DamagedFileError.
    """
    name = str(source)
    path = OPEN_HEAD if name == "open" else _installed_flame(name) if name in FLAME_FILES else Path(source)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; a head is 'open', an .npz or a .pkl (see data/FLAME/README.md)")
    if path.suffix not in LOADERS:
        raise ValueError(f"{path}: a head model is a file that ends in {' or '.join(LOADERS)}, got '{path.suffix}'")
    try:
        return LOADERS[path.suffix](path, regions)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error


def _installed_flame(version: str) -> Path:
    for name in FLAME_FILES[version]:
        if (FLAME_FOLDER / name).is_file():
            return FLAME_FOLDER / name
    raise FileNotFoundError(f"no {version.upper()} model in data/FLAME (looked for {', '.join(FLAME_FILES[version])}); "
                            "data/FLAME/README.md says how to get one, and --head names another file. The head that "
                            "ships needs no registration: --head open, for data that were tracked with it")


def _from_npz(path: Path, regions: str | Path | None) -> Head:
    return _from_arrays(path, read_npz(path), regions)


def _from_arrays(path: Path, data: Mapping[str, Any], regions: str | Path | None) -> Head:
    """A head from the arrays that the open head's file holds."""
    _require(path, data, _OPEN_KEYS)
    if data["n_shape"].size != 1 or data["n_shape"].dtype.kind not in "iu" or data["exp_names"].ndim != 1:
        raise ValueError(f"{path}: wanted one whole number n_shape and a list exp_names, got shapes "
                         f"{list(data['n_shape'].shape)} and {list(data['exp_names'].shape)}")
    n_shape = int(data["n_shape"].item())
    names = tuple(str(name) for name in data["exp_names"])
    vertices = _array(path, data, "v_template", (None, 3))
    lids = np.stack([_array(path, data, key, (len(vertices), 3)) for key in ("l_eyelid", "r_eyelid")])
    landmarks = open_head_embedding(data, str(path))
    return _assemble(path, data, n_shape, names, lids, regions, landmarks)


def _from_flame(path: Path, regions: str | Path | None) -> Head:
    data = load_flame_pickle(path, keys=_SHARED_KEYS)
    _require(path, data, _SHARED_KEYS)
    columns = np.shape(data["shapedirs"])[-1] if np.ndim(data["shapedirs"]) == 3 else 0
    if columns <= FLAME_IDENTITIES:
        raise ValueError(
            f"{path}: shapedirs has shape {list(np.shape(data['shapedirs']))}, "
            f"wanted [V, 3, {FLAME_IDENTITIES} identities + expressions]"
        )
    names = tuple(f"exp{k:03d}" for k in range(columns - FLAME_IDENTITIES))
    lids = _flame_eyelids(path, len(_array(path, data, "v_template", (None, 3))))
    landmarks = flame_embedding(path, len(_array(path, data, "f", (None, 3))))
    _tell_what_lacks(path, lids, landmarks)
    return _assemble(path, data, FLAME_IDENTITIES, names, lids, regions, landmarks)


_told: set[Path] = set()  # models of which was said what they lack


def _tell_what_lacks(model: Path, lids: Floats, landmarks: LandmarkEmbedding | None) -> None:
    lacks = [] if lids.any() else ["no l_eyelid.npy and r_eyelid.npy beside it, eyelid codes will move nothing"]
    if landmarks is None:
        lacks.append("no mediapipe_landmark_embedding.npz, track.py cannot fit this model to a video")
    if lacks and model not in _told:
        _log.warning("%s: %s", model, "; ".join(lacks))
    _told.add(model)


def _flame_eyelids(model: Path, n_vertices: int) -> Floats:
    files = [model.parent / name for name in ("l_eyelid.npy", "r_eyelid.npy")]
    if not all(file.is_file() for file in files):
        return np.zeros((2, n_vertices, 3))
    lids = [read_npy(file) for file in files]
    for file, lid in zip(files, lids, strict=True):
        if lid.size not in (n_vertices * 3, (n_vertices - TEETH_VERTICES) * 3) or lid.dtype.kind not in "iuf":
            raise ValueError(f"{file}: shape {list(lid.shape)}, wanted [{n_vertices}, 3] numbers; type {lid.dtype}")
    whole = np.zeros((2, n_vertices, 3))
    for side, lid in zip(whole, lids, strict=True):
        side[:lid.size // 3] = lid.reshape(-1, 3)
    return whole


def _assemble(
    path: Path,
    data: Mapping[str, Any],
    n_shape: int,
    names: tuple[str, ...],
    lids: Floats,
    regions: str | Path | None,
    landmarks: LandmarkEmbedding | None,
) -> Head:
    n, joints = len(data["v_template"]), len(JOINT_NAMES)
    vertices = _array(path, data, "v_template", (n, 3))
    corners = _array(path, data, "f", (None, 3))
    if corners.size and not (0 <= corners.min() <= corners.max() < n and (corners == np.floor(corners)).all()):
        raise ValueError(f"{path}: f names vertices outside 0..{n - 1}")
    faces = corners.astype(np.int64)
    directions = _array(path, data, "shapedirs", (n, 3, n_shape + len(names)))
    regressor = _array(path, data, "J_regressor", (joints, n))
    weights = _array(path, data, "weights", (n, joints))
    pose_dirs = _array(path, data, "posedirs", (n, 3, 9 * (joints - 1)))
    parents = _parents(path, data)
    geometry = Geometry(vertices, faces, directions[:, :, n_shape:], weights, regressor @ vertices)
    try:
        found = derive_regions(geometry) | labelled_regions(geometry, data)
        mouth = _mouth(geometry, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found |= region_overrides(path, regions, n, len(faces))
    return Head(
        name=path.stem,
        v_template=_tensor(vertices),
        faces=torch.from_numpy(faces),
        shape_dirs=_tensor(directions[:, :, :n_shape]),
        expression_dirs=_tensor(directions[:, :, n_shape:]),
        pose_dirs=_tensor(pose_dirs),
        joint_regressor=_tensor(regressor),
        parents=parents,
        weights=_tensor(weights),
        eyelids=_tensor(lids),
        expression_names=names,
        expression_jaw=_tensor(_expression_jaw(data, names)),
        mouth=mouth,
        regions={name: torch.from_numpy(np.asarray(ids, np.int64)) for name, ids in found.items()},
        landmarks=landmarks,
    )


def _mouth(geometry: Geometry, data: Mapping[str, Any]) -> MouthPlacement:
    teeth: list[Indices] = [np.asarray(data.get(f"region_{jaw}_teeth", ()), np.int64) for jaw in ("upper", "lower")]
    return mouth_from_teeth(geometry, *teeth) if all(map(len, teeth)) else mouth_from_lips(geometry)


def _parents(path: Path, data: Mapping[str, Any]) -> tuple[int, ...]:
    table = _array(path, data, "kintree_table", (2, len(JOINT_NAMES)))
    parents = [int(entry) for entry in table[0]]
    if not all(0 <= parent < joint for joint, parent in enumerate(parents[1:], start=1)):
        raise ValueError(f"{path}: kintree_table gives the joints the parents {parents}; each must come after its own")
    if parents[0] not in (-1, _ROOT_ENTRY):
        raise ValueError(f"{path}: kintree_table gives the root the parent {parents[0]}, wanted -1 or {_ROOT_ENTRY}")
    return (-1, *parents[1:])


def _expression_jaw(data: Mapping[str, Any], names: tuple[str, ...]) -> Floats:
    turns = np.zeros((len(names), 3))
    for expression, key in _JAW_EXPRESSIONS.items():
        if expression in names and key in data:
            turns[names.index(expression)] = data[key]
    return turns


def _require(path: Path, data: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in data]
    if missing:
        raise ValueError(f"{path}: not a head model, it lacks {', '.join(missing)}")


def _array(path: Path, data: Mapping[str, Any], key: str, shape: tuple[int | None, ...]) -> Floats:
    """data[key] as float64, its shape checked (None: any length)."""
    try:
        array = np.asarray(data[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {key} is not an array of numbers ({error!s:.200})") from error
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{path}: {key} has shape {list(array.shape)}, wanted [{wanted}]")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {key} holds numbers that are not finite; the file is damaged")
    return array


def _tensor(array: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


LOADERS: dict[str, Callable[[Path, str | Path | None], Head]] = {
    ".npz": _from_npz,
    ".pkl": _from_flame,
}
"""Ending of the file -> function of its path and of `load_head`'s regions. Bad files raise ValueError naming them."""
