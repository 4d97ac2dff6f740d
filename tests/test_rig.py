"""The rig: Gaussians on the surface follow the posed mesh, teeth follow skull and jaw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blendshape_ops import MEANS, SH

from arguments import ModelSettings
from flame import Head, load_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH, Avatar
from scene.initialize import consistency_mask, create_avatar
from scene.mouth import bounding_cylinder, create_mouth, half_ring
from scene.rig import Codes, Rig, expression_triangle_maps
from scene.sampling import sample_surface

CPU = torch.device("cpu")
MODEL = ModelSettings(num_face_gaussians=2000, num_teeth_gaussians=100)


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head("open")


def codes(head: Head, frames: int = 4, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)

    def rotations(size: float) -> torch.Tensor:
        return matrix_to_6d(matrix_from_axis_angle(size * torch.randn(frames, 3, generator=generator)))

    return Codes(shape=0.5 * torch.randn(head.n_shape, generator=generator),
                 expression=0.3 * torch.rand(frames, head.n_expression, generator=generator),
                 jaw=rotations(0.1), eyes=torch.cat([rotations(0.1), rotations(0.1)], dim=1),
                 eyelids=torch.rand(frames, 2, generator=generator))


def build(head: Head, clip: Codes, expressions: int = 52) -> tuple[Rig, Avatar]:
    rig = Rig(head, clip, expressions, CPU)
    mouth = create_mouth(head, rig.posed.neutral, MODEL.num_teeth_gaussians, np.zeros(3), 0)
    return rig, create_avatar(head, rig, mouth, MODEL, 0, torch.arange(len(clip.expression) - 1))


def test_untrained_face_follows_the_mesh(head: Head) -> None:
    rig, avatar = build(head, codes(head))
    posed = avatar.pose(rig.drive(torch.arange(4), torch.zeros(4, 3)), 0)
    face = avatar.part == FACE
    corners = head.faces[avatar.binding.triangle[face].long()]
    on_mesh = (rig.posed.vertices[:, corners] * avatar.binding.barycentric[face][..., None]).sum(dim=2)
    # Skinning interpolated weights differs from interpolating skinned corners by the curvature of the blend over one
    # triangle; below 0.2 mm for the 6 degree rotations here. A wrong map or order is off by millimetres.
    assert float((posed.means[:, face].detach() - on_mesh).norm(dim=-1).max()) < 2e-4


def test_the_back_of_the_head_begins_dark_and_the_rest_grey(head: Head) -> None:
    """Nobody films it, but it is what an open mouth shows."""
    rig, avatar = build(head, codes(head))
    light = 0.5 + 0.28209479 * avatar.neutral.detach()[:, SH.start:SH.start + 3]
    face = avatar.part == FACE
    corners = rig.posed.neutral[head.faces[avatar.binding.triangle[face].long()]]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    back = torch.zeros_like(face)
    back[face] = normal[:, 2] / normal.norm(dim=1) < -0.2
    assert int(back.sum()) > 20
    assert float((light[back] - 0.05).abs().max()) < 1e-5
    assert float((light[~back] - 0.5).abs().max()) < 2e-3


def test_maps_are_exact_on_their_triangle_and_still_where_nothing_moves(head: Head) -> None:
    neutral = head.v_template
    maps = expression_triangle_maps(head, neutral, head.n_expression).double()
    corners = neutral[head.faces].double()
    linear, offset = maps[..., :9].unflatten(-1, (3, 3)), maps[..., 9:12]
    moved = torch.einsum("kfab,fcb->kfca", linear, corners) + offset[:, :, None]
    expected = head.expression_dirs.double().permute(2, 0, 1)[:, head.faces]
    # single-precision storage of maps on coordinates of 0.2 m, and slivers whose inverse is large
    assert float((moved - expected).abs().max()) < 1e-5
    still = expected.abs().amax(dim=(2, 3)) == 0
    assert float(maps[still].abs().max()) < 1e-6


def test_teeth_move_with_skull_and_jaw(head: Head) -> None:
    clip = codes(head)
    rig, avatar = build(head, clip)
    posed = avatar.pose(rig.drive(torch.arange(4), torch.zeros(4, 3)), 0)
    for part, transform in ((UPPER_TEETH, rig.posed.head_rigid), (LOWER_TEETH, rig.posed.lower_teeth)):
        rows = avatar.part == part
        rest = avatar.neutral[rows][:, MEANS].detach()
        expected = rest @ transform[:, :, :3].mT + transform[:, None, :, 3]
        assert torch.allclose(posed.means[:, rows], expected, atol=1e-6)
    # the skull anchor does not move with expressions or jaw, so the upper teeth stay
    assert float((rig.posed.head_rigid - torch.eye(4)[:3]).abs().max()) < 1e-4


def test_differences_are_not_extrapolated_but_the_mesh_motion_is(head: Head) -> None:
    """Codes beyond those of training drive the differences as far as training went, all of a frame together."""
    clip = codes(head)
    smile = head.expression_names.index("mouthSmileLeft")
    clip.expression[:, smile] = torch.tensor([0.1, 0.4, 0.6, 1.0])  # the last frame is not for training
    rig, avatar = build(head, clip)
    assert avatar.code_range[:, smile].tolist() == [0.0, pytest.approx(0.6)]
    drive = rig.drive(torch.tensor([3, 3]), torch.zeros(2, 3))
    share = (avatar.code_range[1, smile] + 0.1) / 1.0
    drive.beta[1] = (share * drive.beta[1]).clamp(avatar.code_range[0], avatar.code_range[1])
    avatar.differences.values[:, MEANS] = 0.01
    beyond, border = avatar.pose(drive, 0).means
    assert torch.equal(beyond, border)
    at_border = rig.beta.clone()
    rig.beta[3, smile] = 0.6
    mesh_at_border = avatar.pose(rig.drive(torch.tensor([3]), torch.zeros(1, 3)), 0).means[0]
    rig.beta = at_border
    # the mesh's own smile goes on: 0.4 of a displacement of 18 mm
    assert float((beyond - mesh_at_border).detach().norm(dim=1).max()) > 0.003


def test_zero_expressions_give_a_plain_skinned_head(head: Head) -> None:
    rig, avatar = build(head, codes(head), expressions=0)
    assert avatar.differences.values.shape[0] == 0
    posed = avatar.pose(rig.drive(torch.arange(4), torch.zeros(4, 3)), 0)
    assert torch.isfinite(posed.means).all()


def test_mask_is_zero_on_skull_and_neck_and_grows_with_motion(head: Head) -> None:
    still = [*head.regions["back_of_head"].tolist(), *head.regions["lower_neck"].tolist()]
    inside = torch.isin(head.faces, torch.tensor(still)).all(dim=1).nonzero()[:, 0]
    third = torch.full((len(inside), 3), 1 / 3)
    assert float(consistency_mask(head, head.v_template, inside, third, 52, MODEL).max()) == 0
    jaw_open = head.expression_names.index("jawOpen")
    largest = head.expression_dirs[:, :, jaw_open].norm(dim=1).argmax()
    triangle = (head.faces == largest).any(dim=1).nonzero()[:1, 0]
    corner = (head.faces[triangle] == largest).float()
    mask = consistency_mask(head, head.v_template, triangle, corner, 52, MODEL)[0, jaw_open]
    size = float(head.expression_dirs[largest, :, jaw_open].norm())
    # the skull anchor is exactly still, so the rigid alignment changes nothing
    assert float(mask) == pytest.approx((size - MODEL.mask_threshold) / MODEL.mask_unit, rel=1e-3)


def test_surface_samples_are_even_repeatable_and_as_many_as_asked() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    triangle, bary = sample_surface(vertices, faces, 500, seed=3)
    again = sample_surface(vertices, faces, 500, seed=3)
    assert np.array_equal(triangle, again[0])
    assert np.array_equal(bary, again[1])
    assert len(triangle) == 500
    assert bary.min() >= 0
    assert np.allclose(bary.sum(axis=1), 1)
    points = (vertices[faces[triangle]] * bary[..., None]).sum(axis=1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(500)
    # a random (uneven) sample of 500 points on the unit square has its closest pair near 1/500
    assert distance.min() > 0.02
    assert sample_surface(vertices, faces, 0, seed=0)[0].shape == (0,)


def test_cylinder_is_zero_inside_and_squared_distance_outside() -> None:
    vertices, faces = half_ring(np.array([(-0.02, 0.0), (0.0, 0.02), (0.02, 0.0)]), -0.01, 0.01)
    assert vertices.shape == (6, 3)
    assert faces.shape == (4, 3)
    cylinder = bounding_cylinder(vertices)
    assert float(cylinder.squared_distances(torch.from_numpy(vertices).float()).sum()) == 0
    outside = cylinder.center + torch.tensor([[cylinder.radius + 0.01, 0, 0], [0, cylinder.half_height + 0.02, 0]])
    # 1e-8 m^2 under the root keeps its gradient finite on the axis: 1e-6 relative here
    assert float(cylinder.squared_distances(outside).mean()) == pytest.approx((0.01**2 + 0.02**2) / 2, rel=1e-4)
    assert cylinder.squared_distances(torch.zeros(0, 3)).shape == (0,)
