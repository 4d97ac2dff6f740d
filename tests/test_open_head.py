"""The open head's builder, as far as it needs no anny: its labels reproduce the shipped ones, its steps their laws."""

from __future__ import annotations

import numpy as np
import pytest

from data.open_head import fit, label
from flame.load import OPEN_HEAD


@pytest.fixture(scope="module")
def shipped():
    with np.load(OPEN_HEAD) as file:
        return {key: file[key] for key in file.files}


def test_labels_reproduce_the_shipped_ones(shipped):
    labels = label.label(shipped, OPEN_HEAD)
    assert set(labels) == {key for key in shipped if key.startswith(("region_", "mp478_")) or key == "vertex_visible"}
    # equal here; on another machine rounding may decide whether a triangle covers its one pixel of one view
    assert (labels["vertex_visible"] != shipped["vertex_visible"]).sum() <= 3
    for name in (key for key in labels if key.startswith("region_")):
        assert len(np.setxor1d(labels[name], shipped[name])) <= 3, name
        assert labels[name].dtype == shipped[name].dtype


def test_landmarks_of_another_topology_are_refused(shipped, tmp_path):
    np.savez(tmp_path / "other.npz", f=shipped["f"][::-1])
    with pytest.raises(ValueError, match=r"other\.npz: its triangles differ"):
        label.label(shipped, tmp_path / "other.npz")


def test_neck_ring_is_the_boundary_loop(shipped):
    skin = shipped["quads"][shipped["face_part"][::2] == 0]
    np.testing.assert_array_equal(fit.boundary(skin), shipped["neck_ring"])
    with pytest.raises(ValueError, match="has 8 vertices, its first loop only 4"):
        fit.boundary(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]))


def test_mirror_map_is_an_involution_that_mirrors(shipped):
    mirror, v = shipped["mirror_vertex"], shipped["v_template"]
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(v)))
    np.testing.assert_allclose(v[mirror] * [-1, 1, 1], v, atol=1e-6)


def test_principal_components_are_unit_normal_coefficients():
    draw = np.random.default_rng(0)
    truth = np.linalg.qr(draw.normal(size=(30, 3)))[0].T * [[3.0], [2.0], [1.0]]
    samples = (draw.normal(size=(4000, 3)) @ truth).reshape(4000, 10, 3)
    modes = fit.principal_components(samples, 3).reshape(3, -1)
    # 4000 draws estimate a standard deviation to about 1.1 %
    np.testing.assert_allclose(np.linalg.norm(modes, axis=1), [3, 2, 1], rtol=0.04)
    np.testing.assert_allclose(modes @ modes.T, np.diag([9, 4, 1]), atol=0.4)


def test_fitted_weights_sum_to_one_and_find_the_joint():
    draw = np.random.default_rng(0)
    points = draw.normal(size=(200, 6, 3))
    weights = np.array([0.5, 0.3, 0.1, 0.2, -0.2, 0.1])
    found = fit.fit_weights(points, np.einsum("i,tic->tc", weights, points), 1e-9)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    # a strong ridge leads to equal weights
    np.testing.assert_allclose(fit.fit_weights(points, points[:, 0], 1e6), 1 / 6, atol=1e-4)


def test_upper_teeth_come_to_their_place():
    teeth = np.random.default_rng(0).normal(size=(50, 3))
    moved = teeth + fit.teeth_to_origin(teeth)
    assert moved[:, 2].max() == pytest.approx(0.0516)
    assert 0.5 * (moved[:, 1].min() + moved[:, 1].max()) == pytest.approx(-0.0445)


def test_joint_rotations_are_taken_out_and_can_be_put_back(shipped):
    """Sculpted shapes made from the shipped ones by adding the jaw's rotation: the builder finds rotation and rest."""
    names = [str(n) for n in shipped["exp_names"]]
    v, weights = shipped["v_template"].astype(np.float64), shipped["weights"].astype(np.float64)
    joints = shipped["J_regressor"].astype(np.float64) @ v
    shapes = shipped["shapedirs"][:, :, 100:].transpose(2, 0, 1).astype(np.float64)
    sculpted = shapes.copy()
    for name, key in (("jawOpen", "jaw_open_rotvec"), ("jawLeft", "jaw_left_rotvec"), ("jawRight", "jaw_right_rotvec")):
        rotation = fit.turn(shipped[key])
        sculpted[names.index(name)] += weights[:, 2:3] * ((v - joints[2]) @ rotation.T + joints[2] - v)
    eyeballs = np.isin(shipped["vertex_part"], (1, 2))
    sculpted[names.index("eyeLookUpLeft"), eyeballs] = 0.01
    turns = fit.separate_joints(sculpted, names, v, joints, weights, shipped["vertex_part"])
    np.testing.assert_allclose(sculpted, shapes, atol=1e-7)
    np.testing.assert_allclose(turns["jawOpen"], shipped["jaw_open_rotvec"], atol=1e-5)
    np.testing.assert_allclose(turns["jawLeft"], -turns["jawRight"], atol=1e-5)
