"""Where MediaPipe's face landmarks lie on a head: a triangle and barycentric coordinates each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.arrays import read_npz

MESH_LANDMARKS = 478
FLAME_EMBEDDING = "mediapipe_landmark_embedding.npz"
FLAME_SPREAD = 2.5e-3  # metres; FLAME's file tells none: about the median of the open head's


@dataclass(frozen=True, eq=False)
class LandmarkEmbedding:
    """L landmarks on the surface; NumPy, on the CPU.

    index int64 [L]: number of the landmark in MediaPipe's mesh, ascending, 0..477. triangle int64 [L], barycentric
    float64 [L,3]: the place. spread float64 [L], metres: how far the detector's own idea of the landmark wanders over
    the surface between views and people; the face oval's is large.
    """

    index: NDArray[np.int64]
    triangle: NDArray[np.int64]
    barycentric: NDArray[np.float64]
    spread: NDArray[np.float64]


def open_head_embedding(data: Mapping[str, Any], where: str = "mp478_tri, mp478_bary") -> LandmarkEmbedding | None:
    """From the mp478_* arrays of an .npz in the open head's layout; None where it has none."""
    if "mp478_tri" not in data:
        return None
    names = ("mp478_valid", "mp478_tri", "mp478_bary", "mp478_spread")
    shapes = {name: np.shape(data.get(name, ())) for name in names}
    count = shapes["mp478_valid"][:1]
    if len(count) != 1 or list(shapes.values()) != [count, count, (*count, 3), count]:
        raise ValueError(f"{where}: wanted {', '.join(names)} of [L], [L], [L, 3] and [L], got shapes "
                         f"{[list(shape) for shape in shapes.values()]}")
    index = np.flatnonzero(data["mp478_valid"])
    return _checked(index, data["mp478_tri"][index], data["mp478_bary"][index], data["mp478_spread"][index],
                    len(data["f"]), where)


def flame_embedding(model: Path, n_faces: int) -> LandmarkEmbedding | None:
    """From the `FLAME_EMBEDDING` file published with FLAME, beside the pickle `model`; None where it is missing.

    Raises ValueError naming the file when it is damaged or made for another mesh.
    """
    path = model.parent / FLAME_EMBEDDING
    if not path.is_file():
        return None
    try:
        file = read_npz(path)
        index, triangle, barycentric = (file[key] for key in ("landmark_indices", "lmk_face_idx", "lmk_b_coords"))
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path}: not FLAME's landmark embedding, which holds landmark_indices, lmk_face_idx and "
                         f"lmk_b_coords ({error})") from error
    order = np.argsort(index.ravel())
    if len(triangle.ravel()) != len(order) or barycentric.shape != (len(order), 3):
        raise ValueError(f"{path}: {len(order)} landmarks, but triangles {list(triangle.shape)} and barycentric "
                         f"coordinates {list(barycentric.shape)}; wanted [{len(order)}] and [{len(order)}, 3]")
    index, triangle = index.ravel(), triangle.ravel()
    return _checked(index[order], triangle[order], barycentric[order], np.full(len(order), FLAME_SPREAD), n_faces,
                    str(path))


def _checked(
    index: NDArray[Any], triangle: NDArray[Any], barycentric: NDArray[Any], spread: NDArray[Any], n_faces: int,
    where: str,
) -> LandmarkEmbedding:
    count = len(index)
    if index.dtype.kind not in "iu" or triangle.dtype.kind not in "iu" or barycentric.dtype.kind != "f" or (
            spread.dtype.kind != "f"):
        raise ValueError(f"{where}: landmarks of {index.dtype}, triangles of {triangle.dtype}, coordinates of "
                         f"{barycentric.dtype}, spread of {spread.dtype}; wanted whole numbers twice and decimal twice")
    if triangle.shape != (count,) or barycentric.shape != (count, 3):
        raise ValueError(f"{where}: {count} landmarks, but triangles {list(triangle.shape)} and barycentric "
                         f"coordinates {list(barycentric.shape)}; wanted [{count}] and [{count}, 3]")
    if count and not (triangle.min() >= 0 and triangle.max() < n_faces and np.isfinite(barycentric).all()):
        raise ValueError(f"{where}: triangles {triangle.min()}..{triangle.max()} of a mesh with {n_faces}, or "
                         "coordinates that are not finite; was it made for another head?")
    if count and not 0 <= index.min() <= index.max() < MESH_LANDMARKS:
        raise ValueError(f"{where}: landmarks {index.min()}..{index.max()}, wanted 0..{MESH_LANDMARKS - 1}")
    return LandmarkEmbedding(index.astype(np.int64), triangle.astype(np.int64), barycentric.astype(np.float64),
                             spread.astype(np.float64))
