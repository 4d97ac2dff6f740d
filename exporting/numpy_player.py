"""Poses an avatar of `export.py OUT --format avatar` with NumPy alone; copy this file wherever you need it.

    avatar = Avatar("avatar.safetensors")
    pose = avatar.pose({"jawOpen": 0.6}, eyelids=(1, 1))  # means, quats (w,x,y,z), scales, opacities, sh, frames
    rgb = avatar.colors(pose, camera_position)
"""
import json
from typing import Any

import numpy as np

Array = np.ndarray
REST = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # no rotation, as 6D vector: the first two rows of the matrix
MEANS, QUATS, LOG_SCALES, OPACITY, SH = slice(0, 3), slice(3, 7), slice(7, 10), 10, slice(11, None)  # columns


def rotation_of(six: Any) -> Array:
    first, second = np.reshape(six, (2, 3)) / np.linalg.norm(six[:3])
    third = (normal := np.cross(first, second)) / np.linalg.norm(normal)
    return np.stack([first, np.cross(third, first), third])


def quaternions_of(m: Array) -> Array:  # of rotations by less than half a turn, which heads make
    w = np.sqrt(1 + np.trace(m, axis1=1, axis2=2)) / 2
    return np.column_stack([w, (m[:, [2, 0, 1], [1, 2, 0]] - m[:, [1, 2, 0], [2, 0, 1]]) / (4 * w[:, None])])


def harmonics(d: Array, count: int) -> Array:  # of 3D Gaussian splatting, at unit directions [N,3]
    (x, y, z), (xx, yy, zz) = d.T, d.T ** 2
    terms = [1 + 0 * x, -y, z, -x, x * y, -y * z, 2 * zz - xx - yy, -x * z, xx - yy, -y * (3 * xx - yy), x * y * z,
             -y * (4 * zz - xx - yy), z * (2 * zz - 3 * xx - 3 * yy), -x * (4 * zz - xx - yy), z * (xx - yy),
             -x * (xx - 3 * yy)][:count]
    squares = np.array([8, 24, 24, 24, 120, 120, 10, 120, 30, 35, 840, 21, 14, 21, 210, 35])[:count] / (32 * np.pi)
    return np.stack(terms, axis=1) * np.sqrt(squares)


class Avatar:
    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:  # safetensors: 8 bytes of length, a JSON header, the data
            header, data = json.loads(file.read(int.from_bytes(file.read(8), "little"))), file.read()
        kinds = {"F32": np.float32, "F16": np.float16, "I32": np.int32}
        self.facts = json.loads(header.pop("__metadata__")["avatar"])
        self.tables = {name: np.frombuffer(data[slice(*row["data_offsets"])], kinds[row["dtype"]]).reshape(row["shape"])
                       for name, row in header.items()}

    def add(self, name: str, drivers: Array, target: Array) -> None:  # target[Gaussian] += driver x values, by driver
        for i in np.flatnonzero(np.any(np.atleast_2d(drivers.T), axis=0)):
            start, rows, values, unit = (self.tables[f"{name}.{x}"] for x in ("start", "gaussian", "values", "unit"))
            part = slice(*start[i:i + 2])
            target[rows[part]] += drivers[i] * values[part].astype(np.float32) * unit

    def bones(self, expression: Array, turns: Array, eyelids: Array) -> Array:
        """Transforms [J+2,3,4] of the joints, the skull and the lower teeth."""
        t, parents = self.tables, self.facts["parents"]
        joints = t["joints.rest"] + t["joints.expression"] @ expression
        turn, place = [np.eye(3)], [joints[0]]
        for joint, parent in enumerate(parents[1:], start=1):
            place.append(place[parent] + turn[parent] @ (joints[joint] - joints[parent]))
            turn.append(turn[parent] @ turns[joint - 1])
        bones = np.stack([np.column_stack([r, p - r @ j]) for r, p, j in zip(turn, place, joints, strict=True)])
        rest, drivers = t["skull.rest"].astype(float), np.concatenate([expression, (turns - np.eye(3)).ravel()])
        blend = np.einsum("vj,jab->vab", t["skull.weights"], bones)
        moved = np.einsum("vab,vb->va", blend[..., :3], rest + t["skull.drive"] @ drivers) + blend[..., 3]
        moved += t["skull.eyelids"] @ eyelids
        left, _, right = np.linalg.svd((moved - moved.mean(0)).T @ (rest - rest.mean(0)))  # Kabsch
        skull = left * (1, 1, np.linalg.det(left @ right)) @ right
        skull = np.column_stack([skull, moved.mean(0) - skull @ rest.mean(0)])
        return np.concatenate([bones, skull[None], np.einsum("j,jab->ab", t["teeth.weights"], bones)[None]])

    def pose(self, expression: Any = (), jaw: Any = None, eyes: Any = REST * 2, eyelids: Any = (0, 0),
             neck: Any = REST, sway: Any = (0,) * 6) -> dict[str, Array]:
        """One frame's Gaussians. expression: first numbers, or {name: number}; rotations: 6D; sway: docs/formats.md."""
        t, codes, eyelids = self.tables, np.zeros(len(self.facts["expression_names"])), np.asarray(eyelids, float)
        for key, value in expression.items() if isinstance(expression, dict) else enumerate(expression):
            codes[self.facts["expression_names"].index(key) if isinstance(key, str) else key] = value
        if jaw is None:  # it turns with the expressions it belongs to; Rodrigues' formula
            K, angle = np.cross(v := codes @ t["expression_jaw"], np.eye(3)).T, np.linalg.norm(v) / np.pi
            jaw = (np.eye(3) + np.sinc(angle) * K + np.sinc(angle / 2) ** 2 / 2 * K @ K)[:2].ravel()
        turns = np.stack([rotation_of(six) for six in (neck, jaw, eyes[:6], eyes[6:])])
        (low, high), raw = t["code_range"], np.column_stack([t["means"], t["rest"]]).astype(float)
        c = codes[:len(low)]  # all of them shortened until none is 0.1 outside of what training saw, then limited
        reach = np.where(c > 0, high + 0.1, low - 0.1)[moved := (high > low) & (c != 0)] / c[moved]
        self.add("difference", limited := (reach.min(initial=1) * c).clip(low, high), raw)
        self.add("motion", c, raw[:, :QUATS.stop])
        self.add("corrective", (turns - np.eye(3)).ravel(), raw[:, MEANS])
        self.add("sway", np.tensordot(np.append(sway, limited), t["sway.control"], 1), raw[:, MEANS])
        weights = t["weights"] / t["weights"].sum(axis=1, keepdims=True, dtype=np.float32)
        blend = np.einsum("nj,jab->nab", weights, self.bones(codes, turns, eyelids))
        means = np.einsum("nab,nb->na", blend[..., :3], raw[:, MEANS]) + blend[..., 3]
        self.add("eyelid", eyelids, means)
        frames = np.matmul(*np.linalg.svd(blend[..., :3])[::2])  # nearest rotations
        p, q = quaternions_of(frames), raw[:, QUATS] / np.linalg.norm(raw[:, QUATS], axis=1, keepdims=True)
        v = p[:, :1] * q[:, 1:] + q[:, :1] * p[:, 1:] + np.cross(p[:, 1:], q[:, 1:])
        quats = np.column_stack([p[:, 0] * q[:, 0] - (p[:, 1:] * q[:, 1:]).sum(axis=1), v])
        return {"means": means, "quats": quats, "scales": np.exp(raw[:, LOG_SCALES]), "frames": frames,
                "opacities": 1 / (1 + np.exp(-raw[:, OPACITY])), "sh": raw[:, SH].reshape(len(raw), -1, 3)}

    def colors(self, pose: dict[str, Array], camera: Array) -> Array:  # RGB [N,3] seen from [3] in head space
        d = np.einsum("nba,nb->na", pose["frames"], (v := pose["means"] - camera) / np.linalg.norm(v, axis=1)[:, None])
        return np.maximum(0, 0.5 + np.einsum("nj,njc->nc", harmonics(d, pose["sh"].shape[1]), pose["sh"]))
