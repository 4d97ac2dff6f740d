"""Posing against a plain transcription of the model, and the laws that every head must follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flame import load_head, pose_head
from flame import pose as pose_module
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d
from tests.heads import random_codes, random_head

IDENTITY = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64)


@pytest.fixture(scope="module")
def open_head():
    return load_head("open")


def rest(head, frames=1, dtype=torch.float64):
    return {
        "shape": torch.zeros(head.n_shape, dtype=dtype),
        "expression": torch.zeros(frames, head.n_expression, dtype=dtype),
        "jaw": IDENTITY.to(dtype).repeat(frames, 1),
        "eyes": IDENTITY.to(dtype).repeat(frames, 2),
        "eyelids": torch.zeros(frames, 2, dtype=dtype),
    }


def plain_frame(head, shape, expression, jaw, eyes, eyelids, neck):
    """One frame with 4x4 matrices, joint by joint and vertex by vertex, as reference-method 2.3 words it."""
    head = head.to(dtype=torch.float64)
    shaped = head.v_template + head.shape_dirs @ shape + head.expression_dirs @ expression
    joints = head.joint_regressor @ shaped
    turns = [np.eye(3)] + [matrix_from_6d(six).numpy() for six in (neck, jaw, eyes[:6], eyes[6:])]
    feature = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
    corrected = shaped.numpy() + np.einsum("vcp,p->vc", head.pose_dirs.numpy(), feature)
    chains: list[np.ndarray] = []
    relative: list[np.ndarray] = []
    for j, parent in enumerate(head.parents):
        local = np.eye(4)
        local[:3, :3] = turns[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        chains.append(local if parent < 0 else chains[parent] @ local)
        back = np.eye(4)
        back[:3, 3] = -joints[j].numpy()
        relative.append(chains[j] @ back)
    out = np.zeros_like(corrected)
    for v, point in enumerate(corrected):
        blend = sum(float(w) * transform for w, transform in zip(head.weights[v], relative, strict=True))
        out[v] = (blend @ np.append(point, 1))[:3]
    lids = np.einsum("e,evc->vc", eyelids.numpy(), head.eyelids.numpy())
    return out + lids, np.stack(relative)[:, :3], feature, corrected - shaped.numpy(), lids


def test_matches_the_plain_transcription():
    head, frames = random_head(), 4
    codes = random_codes(head, frames)
    posed = pose_head(head, **codes)
    for t in range(frames):
        frame = {name: code if name == "shape" else code[t] for name, code in codes.items()}
        vertices, transforms, feature, offsets, lids = plain_frame(head, **frame)
        # same double-precision sums in another order
        for got, want in (
            (posed.vertices[t], vertices),
            (posed.joint_transforms[t], transforms),
            (posed.pose_feature[t], feature),
            (posed.pose_offsets[t], offsets),
            (posed.eyelid_offsets[t], lids),
        ):
            torch.testing.assert_close(got, torch.from_numpy(want), rtol=0, atol=1e-12)
        blend = torch.einsum("j,jab->ab", head.mouth.lower_weights.double(), torch.from_numpy(transforms))
        torch.testing.assert_close(posed.lower_teeth[t], blend, rtol=0, atol=1e-12)


def test_parts_compose_to_the_vertices():
    """What the avatar does with the parts: (sum w A)(rest + offsets) + lids, equal to the posed mesh."""
    head = random_head().to(dtype=torch.float64)
    codes = random_codes(head, 3)
    posed = pose_head(head, **codes)
    shaped = posed.neutral + torch.einsum("vce,te->tvc", head.expression_dirs, codes["expression"]) + posed.pose_offsets
    blend = torch.einsum("vj,tjab->tvab", head.weights, posed.joint_transforms)
    composed = torch.einsum("tvab,tvb->tva", blend[..., :3], shaped) + blend[..., 3] + posed.eyelid_offsets
    torch.testing.assert_close(posed.vertices, composed, rtol=0, atol=1e-12)


def test_rest_is_the_identity(open_head):
    posed = pose_head(open_head, **rest(open_head))
    # float32 skinning weights sum to one only within 4e-8, over coordinates of 0.2 m
    torch.testing.assert_close(posed.vertices[0], open_head.v_template.double(), rtol=0, atol=1e-8)
    eye = torch.eye(3, 4, dtype=torch.float64)
    # 1e-7: the float32 skinning weights and regressor rows sum to one only to that
    for transform in (*posed.joint_transforms[0], posed.head_rigid[0], posed.lower_teeth[0]):
        torch.testing.assert_close(transform, eye, rtol=0, atol=1e-7)


def test_skull_follows_the_neck_and_nothing_else(open_head):
    """head_rigid equals the neck joint's transform whatever the face does, since the anchor hangs on it alone."""
    codes = random_codes(open_head, 5)
    codes["expression"] = codes["expression"].abs() * 0.3
    posed = pose_head(open_head, **codes)
    torch.testing.assert_close(posed.head_rigid, posed.joint_transforms[:, 1], rtol=0, atol=1e-6)
    del codes["neck"]
    still = pose_head(open_head, **codes)
    torch.testing.assert_close(still.head_rigid, torch.eye(3, 4).double().expand(5, 3, 4), rtol=0, atol=1e-6)


def test_joints_move_their_own_parts(open_head):
    """Jaw: lower teeth swing down, upper teeth stay. Eyes: first six numbers turn the left eyeball (x > 0) about its
    joint. Eyelids: first number closes the subject's left eye."""
    codes = rest(open_head)
    neutral = pose_head(open_head, **codes).vertices[0]
    opened = matrix_to_6d(matrix_from_axis_angle(torch.tensor([[0.25, 0, 0]]).double()))
    posed = pose_head(open_head, **(codes | {"jaw": opened}))
    move = posed.vertices[0] - neutral
    lower = open_head.faces[open_head.regions["lower_teeth_faces"]].unique()
    upper = open_head.faces[open_head.regions["upper_teeth_faces"]].unique()
    assert move[lower, 1].max() < -0.002
    assert move[upper].abs().max() < 1e-7
    carried = neutral[lower] @ posed.lower_teeth[0, :, :3].mT + posed.lower_teeth[0, :, 3]
    torch.testing.assert_close(posed.vertices[0, lower], carried, rtol=0, atol=1e-7)

    eyes = codes["eyes"].clone()
    eyes[:, :6] = opened
    turned = pose_head(open_head, **(codes | {"eyes": eyes})).vertices[0]
    changed = (turned - neutral).norm(dim=1) > 1e-6
    assert changed.any()
    assert (neutral[changed, 0] > 0).all()

    lids = pose_head(open_head, **(codes | {"eyelids": torch.tensor([[1.0, 0.0]]).double()})).vertices[0] - neutral
    torch.testing.assert_close(lids, open_head.eyelids[0].double(), rtol=0, atol=1e-9)
    closing = lids.norm(dim=1)
    assert neutral[closing.argmax(), 0] > 0.01
    assert closing[neutral[:, 0] > 0].sum() > 5 * closing[neutral[:, 0] < 0].sum()


def test_open_jaw_moves_the_lower_lip_down_and_the_face_looks_along_z(open_head):
    """jawOpen at one with its jaw rotation parts the lips by centimetres, downwards."""
    codes = rest(open_head)
    k = open_head.expression_names.index("jawOpen")
    codes["expression"][0, k] = 1
    codes["jaw"] = matrix_to_6d(matrix_from_axis_angle(open_head.expression_jaw[k].double()))[None]
    moved = pose_head(open_head, **codes).vertices[0] - open_head.v_template
    lips = open_head.regions["mouth"]
    assert moved[lips, 1].min() < -0.015
    assert open_head.v_template[open_head.regions["face"], 2].mean() > open_head.v_template[:, 2].mean()


def test_chunks_do_not_show(monkeypatch):
    head = random_head()
    codes = random_codes(head, 11)
    whole = pose_head(head, **codes).vertices
    monkeypatch.setattr(pose_module, "CHUNK_BYTES", 40 * 12 * 8 * 3)  # three frames of this head
    torch.testing.assert_close(pose_head(head, **codes).vertices, whole, rtol=0, atol=1e-14)


def test_some_frames_only():
    head = random_head()
    posed = pose_head(head, **random_codes(head, 6))
    pick = torch.tensor([4, 0])
    torch.testing.assert_close(posed.vertices_at(pick), posed.vertices[pick])
    torch.testing.assert_close(posed.vertices_at(slice(2, 4)), posed.vertices[2:4])
    torch.testing.assert_close(posed.pose_offsets_at(pick), posed.pose_offsets[pick])
    torch.testing.assert_close(posed.eyelid_offsets_at(pick), posed.eyelid_offsets[pick])
    assert len(posed) == 6


def test_no_frames_give_empty_results():
    head = random_head()
    posed = pose_head(head, **random_codes(head, 0))
    assert posed.vertices.shape == (0, head.n_vertices, 3)
    assert posed.head_rigid.shape == (0, 3, 4)


def test_float32_agrees_with_float64(open_head):
    codes = random_codes(open_head, 3)
    codes["expression"] = codes["expression"].abs() * 0.3
    exact = pose_head(open_head, **codes)
    rough = pose_head(open_head, **{name: code.float() for name, code in codes.items()})
    assert rough.vertices.dtype == torch.float32
    # coordinates of 0.2 m: 52 products of float32 leave under a micrometre
    torch.testing.assert_close(rough.vertices.double(), exact.vertices, rtol=0, atol=1e-6)
    torch.testing.assert_close(rough.head_rigid.double(), exact.head_rigid, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["shape", "expression", "jaw", "eyes", "eyelids", "neck"])
def test_gradients_of_every_code(name):
    """First derivatives of everything that is returned, against finite differences in double precision."""
    head = random_head(n_vertices=9)
    codes = random_codes(head, 2)

    def outputs(code):
        posed = pose_head(head, **(codes | {name: code}))
        return posed.vertices, posed.head_rigid, posed.lower_teeth, posed.pose_offsets, posed.eyelid_offsets

    assert torch.autograd.gradcheck(outputs, codes[name].clone().requires_grad_(), atol=1e-6)


def test_wrong_codes_are_named():
    head = random_head()
    codes = random_codes(head, 2)
    cases = {
        "shape": (torch.zeros(7).double(), r"shape: wanted floating \[3\], got torch.float64 \[7\]"),
        "expression": (torch.zeros(2, 9).double(), r"expression: wanted \[2, 4\] for 2 frames, got \[2, 9\]"),
        "jaw": (torch.zeros(3, 6).double(), r"jaw: wanted \[2, 6\] for 2 frames, got \[3, 6\]"),
        "eyes": (torch.zeros(2, 12), r"eyes: wanted torch.float64 on cpu like shape, got torch.float32 on cpu"),
        "neck": (torch.zeros(2, 3).double(), r"neck: wanted \[2, 6\]"),
    }
    for name, (code, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            pose_head(head, **(codes | {name: code}))
