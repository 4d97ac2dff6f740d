"""Heads for tests: a FLAME-like pickle with chumpy and SciPy objects, written without either package's classes."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix

from flame import Head, MouthPlacement
from flame.load import FLAME_IDENTITIES
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from tracking.records import Fit

FLAME_EXPRESSIONS = 100


@contextmanager
def pretend_modules(classes: dict[str, type]) -> Iterator[None]:
    """Make classes importable under foreign dotted names, so that pickle writes those names; undone afterwards."""
    saved: dict[str, types.ModuleType | None] = {}
    for dotted, cls in classes.items():
        module, _, name = dotted.rpartition(".")
        cls.__module__, cls.__qualname__, cls.__name__ = module, name, name
        for end in [i for i, c in enumerate(module + ".") if c == "."]:
            saved.setdefault(module[:end], sys.modules.get(module[:end]))
            if module[:end] not in sys.modules or sys.modules[module[:end]] is saved[module[:end]]:
                sys.modules[module[:end]] = types.ModuleType(module[:end])
        setattr(sys.modules[module], name, cls)
    try:
        yield
    finally:
        for module, old in saved.items():
            if old is None:
                del sys.modules[module]
            else:
                sys.modules[module] = old


def flame_dict(head: Head) -> tuple[dict[str, Any], dict[str, type]]:
    """The contents of a FLAME pickle for `head`, and the pretended names of the classes in it.

    400 shapedirs columns: 0..299 identity, 300..399 expression, unused ones zero. chumpy.ch.Ch objects carry their
    values under 'x' (shapedirs once more inside another Ch), J_regressor is a scipy.sparse.csc.csc_matrix as written
    by SciPy before 1.8, 'J' is a chumpy expression as in real files, which no reader needs.
    """
    directions = np.zeros((head.n_vertices, 3, FLAME_IDENTITIES + FLAME_EXPRESSIONS))
    directions[:, :, : head.n_shape] = head.shape_dirs
    directions[:, :, FLAME_IDENTITIES : FLAME_IDENTITIES + head.n_expression] = head.expression_dirs
    array = type("Ch", (), {})
    expression = type("MatVecMult", (), {})
    sparse = type("csc_matrix", (), {})

    def chumpy(values: Any) -> Any:
        wrapped = array()
        wrapped.__dict__ = {"x": values, "_dirty_vars": set(), "_itr": None, "_cache": {"r": None}}
        return wrapped

    regressor = sparse()
    columns = csc_matrix(head.joint_regressor.double().numpy())
    regressor.__dict__ = {
        "format": "csc", "_shape": columns.shape, "maxprint": 50,
        "data": columns.data, "indices": columns.indices, "indptr": columns.indptr,
    }  # fmt: skip
    product = expression()
    product.__dict__ = {"mtx": regressor, "vec": None}
    parents = np.array([2**32 - 1 if p < 0 else p for p in head.parents], np.uint32)
    data = {
        "f": head.faces.numpy().astype(np.uint32),
        "v_template": chumpy(head.v_template.double().numpy()),
        "shapedirs": chumpy(chumpy(directions)),
        "posedirs": np.asfortranarray(head.pose_dirs.double().numpy()),
        "J_regressor": regressor,
        "J": product,
        "kintree_table": np.stack([parents, np.arange(len(parents), dtype=np.uint32)]),
        "weights": chumpy(head.weights.double().numpy()),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    names = {"chumpy.ch.Ch": array, "chumpy.ch_ops.MatVecMult": expression, "scipy.sparse.csc.csc_matrix": sparse}
    return data, names


def write_flame_pickle(path: Path, head: Head, protocol: int = 2, **changes: Any) -> Path:
    """Write `head` as a FLAME-like pickle that reads with encoding latin1. A change to None removes the key.

    Protocol 2 is the most that Python 2, which wrote FLAME's files, knows.
    """
    data, names = flame_dict(head)
    data = {key: value for key, value in (data | changes).items() if value is not None}
    with pretend_modules(names), path.open("wb") as file:
        pickle.dump(data, file, protocol=protocol)
    return path


def write_flame_with_teeth(path: Path, head: Head) -> Path:
    """`head` as a FLAME-like pickle with 120 vertices of teeth appended, upper ones on the neck, lower on the jaw."""
    count, teeth = head.n_vertices, 120
    angle = np.linspace(0, np.pi, teeth // 4)
    arch = np.stack([0.02 * np.cos(angle), np.zeros_like(angle), 0.015 * np.sin(angle)], axis=1)
    rows = [arch + head.mouth.center.numpy() + (0, height, 0) for height in (0.004, 0.001, -0.001, -0.004)]
    first = np.arange(teeth // 4 - 1)
    quads = [np.stack([first, first + 1, first + teeth // 4], axis=1) + start for start in (0, teeth // 2)]
    regressor = np.pad(head.joint_regressor.double().numpy(), ((0, 0), (0, teeth)))
    weights = np.zeros((teeth, 5))
    weights[:teeth // 2, 1] = weights[teeth // 2:, 2] = 1
    directions = np.zeros((count + teeth, 3, FLAME_IDENTITIES + FLAME_EXPRESSIONS))
    directions[:count, :, :head.n_shape] = head.shape_dirs
    directions[:count, :, FLAME_IDENTITIES:FLAME_IDENTITIES + head.n_expression] = head.expression_dirs
    return write_flame_pickle(
        path, head, v_template=np.vstack([head.v_template.double().numpy(), *rows]), J_regressor=regressor,
        f=np.vstack([head.faces.numpy(), *(quad + count for quad in quads)]).astype(np.uint32), shapedirs=directions,
        weights=np.vstack([head.weights.double().numpy(), weights]),
        posedirs=np.pad(head.pose_dirs.double().numpy(), ((0, teeth), (0, 0), (0, 0))))


def write_eyelids(folder: Path, head: Head) -> None:
    """l_eyelid.npy and r_eyelid.npy beside a FLAME pickle, float64 as the public ones."""
    for name, lid in zip(("l_eyelid.npy", "r_eyelid.npy"), head.eyelids, strict=True):
        np.save(folder / name, lid.double().numpy())


def random_head(seed: int = 0, n_vertices: int = 40, n_shape: int = 3, n_expression: int = 4) -> Head:
    """A meaningless but valid small head with dense weights, correctives and eyelids, for tests of the mathematics."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return Head(
        name="random",
        v_template=normal(n_vertices, 3),
        faces=torch.randint(0, n_vertices, (50, 3), generator=draw),
        shape_dirs=0.3 * normal(n_vertices, 3, n_shape),
        expression_dirs=0.3 * normal(n_vertices, 3, n_expression),
        pose_dirs=0.1 * normal(n_vertices, 3, 36),
        joint_regressor=torch.softmax(normal(5, n_vertices), dim=1),
        parents=(-1, 0, 1, 1, 1),
        weights=torch.softmax(normal(n_vertices, 5), dim=1),
        eyelids=normal(2, n_vertices, 3),
        expression_names=tuple(f"exp{k}" for k in range(n_expression)),
        expression_jaw=torch.zeros(n_expression, 3),
        mouth=MouthPlacement(torch.zeros(3), 1.0, 1.0, 1.0, 1.0, torch.tensor([0.0, 0.1, 0.9, 0.0, 0.0])),
        regions={"back_of_head": torch.arange(6)},
    )


def random_codes(head: Head, frames: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> dict[str, torch.Tensor]:
    """Arguments of `pose_head` except the head: ordinary expressions and rotations of a few tenths of a radian."""
    draw = torch.Generator().manual_seed(seed)

    def turns(count: int) -> torch.Tensor:
        vector = 0.3 * torch.randn(frames, count, 3, generator=draw, dtype=torch.float64)
        return matrix_to_6d(matrix_from_axis_angle(vector)).reshape(frames, 6 * count).to(dtype)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    return {
        "shape": normal(head.n_shape),
        "expression": normal(frames, head.n_expression),
        "jaw": turns(1),
        "eyes": turns(2),
        "eyelids": torch.rand(frames, 2, generator=draw, dtype=torch.float64).to(dtype),
        "neck": turns(1),
    }


def still_fit(head: Head, frames: int, size: int) -> Fit:
    """The head at rest before a camera, frame after frame."""
    six = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (frames, 1))
    return Fit(
        shape=np.zeros(head.n_shape, np.float32), expression=np.zeros((frames, head.n_expression), np.float32),
        jaw=six, eyes=np.tile(six, (1, 2)), eyelids=np.zeros((frames, 2), np.float32),
        R=np.tile(np.diag([1, -1, -1]).astype(np.float32), (frames, 1, 1)),
        t=np.tile(np.array([0, 0, 0.7], np.float32), (frames, 1)),
        K=np.array([[1.8 * size, 0, size / 2], [0, 1.8 * size, size / 2], [0, 0, 1]], np.float32),
        landmark_error=np.ones(frames, np.float32),
    )
