"""Derived regions and mouth placement against what the open head's own file knows about itself."""

from __future__ import annotations

import dataclasses
import logging
import pickle

import numpy as np
import pytest
import torch

from flame import load_head, subject_mouth
from flame.load import OPEN_HEAD
from flame.mouth import mouth_from_lips
from flame.regions import FACE_REGIONS, VERTEX_REGIONS, Geometry, back_of_head, derive_regions, lowest_boundary
from tests.heads import write_flame_pickle


@pytest.fixture(scope="module")
def open_arrays():
    with np.load(OPEN_HEAD) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def geometry(open_arrays):
    """The open head as the rules see a FLAME file: no labels, only mesh, weights, joints and expressions."""
    d = open_arrays
    vertices = d["v_template"].astype(np.float64)
    return Geometry(
        vertices=vertices,
        faces=d["f"].astype(np.int64),
        expression_dirs=d["shapedirs"][:, :, int(d["n_shape"]) :].astype(np.float64),
        weights=d["weights"].astype(np.float64),
        joints=d["J_regressor"].astype(np.float64) @ vertices,
    )


@pytest.fixture(scope="module")
def derived(geometry):
    return derive_regions(geometry)


@pytest.fixture(scope="module")
def open_head():
    return load_head("open")


def overlap(a, b) -> float:
    return len(np.intersect1d(a, b)) / len(np.union1d(a, b))


def test_every_region_is_there_sorted_and_unique(open_head, derived):
    own = {name: ids.numpy() for name, ids in open_head.regions.items()}
    assert set(own) == {*VERTEX_REGIONS, *FACE_REGIONS}
    assert set(derived) == {*VERTEX_REGIONS, "surface_faces"}
    for name, ids in (*own.items(), *derived.items()):
        assert (np.diff(ids) > 0).all(), name
        assert len(ids) > 0, name


def test_derived_regions_find_the_labelled_ones(derived, open_arrays):
    """Measured overlap: lower neck 1.00, occiput 0.73, face 0.64 (the rule adds cheeks and jaw line), lips 0.59."""
    for name, label, least in (
        ("lower_neck", "lower_neck", 0.99),
        ("back_of_head", "back_of_head", 0.65),
        ("face", "face", 0.6),
        ("mouth", "lips", 0.5),
    ):
        assert overlap(derived[name], open_arrays[f"region_{label}"]) >= least, name
    assert np.isin(open_arrays["region_face"], derived["face"]).mean() > 0.95
    assert np.isin(open_arrays["region_lips"], derived["mouth"]).mean() > 0.95
    for side in ("left", "right"):
        assert np.isin(open_arrays[f"region_{side}_eyeball"], derived[f"{side}_eye"]).all()


def test_anchor_is_rigid_and_surrounds_enough_of_the_skull(geometry, derived):
    anchor = derived["back_of_head"]
    assert np.abs(geometry.expression_dirs[anchor]).max() < 1e-6
    # an alignment needs extent: 14 cm across, 10 cm in height, and not in one plane
    assert (np.ptp(geometry.vertices[anchor], axis=0) > [0.12, 0.09, 0.05]).all()


def test_regions_follow_the_head_not_its_units_or_place(geometry, derived):
    """Millimetres and a shifted origin change no region."""
    shift = np.array([0.01, 0.3, -0.2])
    changed = dataclasses.replace(
        geometry,
        vertices=1000 * (geometry.vertices + shift),
        expression_dirs=1000 * geometry.expression_dirs,
        joints=1000 * (geometry.joints + shift),
    )
    for name, ids in derive_regions(changed).items():
        # a vertex on a threshold may fall to either side by rounding
        assert len(np.setxor1d(ids, derived[name])) <= 2, name


def test_neck_boundary_is_the_lowest_loop(geometry, open_arrays):
    """A hole cut into the face (FLAME's mouth and eyes are open) must not be taken for the neck."""
    np.testing.assert_array_equal(lowest_boundary(geometry), np.sort(open_arrays["neck_ring"]))
    front = geometry.vertices[geometry.faces].mean(1)[:, 2] < 0.06
    np.testing.assert_array_equal(
        lowest_boundary(dataclasses.replace(geometry, faces=geometry.faces[front])), np.sort(open_arrays["neck_ring"])
    )


def test_surface_is_the_outside_of_the_head(open_head, open_arrays):
    faces = open_head.regions["surface_faces"].numpy()
    part = open_arrays["face_part"]
    assert set(part[faces]) == {0, 1, 2}
    # front halves of two eyeballs of 140 triangles each
    assert (part[faces] > 0).sum() == 140
    surface = np.zeros(len(part), bool)
    surface[faces] = True
    seen = (part == 0) & open_arrays["vertex_visible"][open_arrays["f"]].all(1)
    assert surface[seen].mean() > 0.995  # the rest is lining, seen through nostrils and cracks
    centers = open_arrays["v_template"][open_arrays["f"]].mean(1)
    behind = (part == 0) & (centers[:, 2] < -0.1)
    assert surface[behind].all()
    # the mouth bag: between palate and tongue, well inside the head
    inside = (part == 0) & (np.abs(centers[:, 0]) < 0.03) & (np.abs(centers[:, 1] + 0.04) < 0.02)
    inside &= (centers[:, 2] > -0.04) & (centers[:, 2] < 0.04)
    assert inside.sum() > 30
    assert not surface[inside].any()


def test_teeth_have_their_own_triangles(open_head, open_arrays):
    for name, label in (("upper_teeth", 3), ("lower_teeth", 4)):
        np.testing.assert_array_equal(
            open_head.regions[f"{name}_faces"], np.flatnonzero(open_arrays["face_part"] == label)
        )


def test_mouth_placement_of_the_open_head_encloses_its_teeth(open_head):
    mouth, v = open_head.mouth, open_head.v_template
    teeth = torch.cat([open_head.faces[open_head.regions[f"{jaw}_teeth_faces"]].unique() for jaw in ("upper", "lower")])
    low, high = v[teeth].amin(0), v[teeth].amax(0)
    torch.testing.assert_close(mouth.center[2] + mouth.depth, high[2])
    assert float(mouth.center[1] + mouth.upper_height) == pytest.approx(float(high[1]), abs=1e-6)
    assert float(mouth.center[1] - mouth.lower_height) == pytest.approx(float(low[1]), abs=1e-6)
    assert mouth.width == pytest.approx(float(high[0] - low[0]), abs=1e-6)
    torch.testing.assert_close(mouth.lower_weights, torch.tensor([0.0, 0, 1, 0, 0]))


def test_mouth_from_lips_finds_the_teeth_that_it_was_not_told_about(geometry, open_head):
    """The front of the arches within 3 mm of the modelled front teeth, the bite within 5 mm, inside the real arches;
    sizes those of an adult's front teeth (reference-method 5.1: 48 wide, 20 deep, 11 and 14 high, in mm)."""
    guess, real = mouth_from_lips(geometry), open_head.mouth
    assert abs(float(guess.center[0])) < 1e-3
    assert float(guess.center[2] + guess.depth) == pytest.approx(float(real.center[2] + real.depth), abs=3e-3)
    assert float(guess.center[1]) == pytest.approx(float(real.center[1]), abs=5e-3)
    assert guess.width < real.width
    sizes = [guess.width, guess.depth, guess.upper_height, guess.lower_height]
    np.testing.assert_allclose(sizes, [0.048, 0.0204, 0.011, 0.0136], rtol=0.1)
    assert float(guess.lower_weights.sum()) == pytest.approx(1, abs=1e-6)
    assert float(guess.lower_weights[2]) > 0.8  # this head's skin follows its jaw joint by 0.92 at most


def test_an_open_mouth_is_placed_by_the_eyes(geometry, open_head, caplog):
    """Jaw-led skin moved 3 cm down: no lips touch. The guess stays within 15 mm of the real teeth."""
    vertices = geometry.vertices.copy()
    vertices[geometry.weights[:, 2] > 0.5, 1] -= 0.03
    with caplog.at_level(logging.WARNING):
        guess = mouth_from_lips(dataclasses.replace(geometry, vertices=vertices))
    assert "lips of the head do not touch" in caplog.text
    assert float((guess.center - open_head.mouth.center)[1].abs()) < 0.015
    assert float((guess.center[2] + guess.depth) - (open_head.mouth.center[2] + open_head.mouth.depth)) < 0.015


def test_mouth_follows_the_subject(open_head):
    """Unchanged on the template; a shifted and enlarged subject moves and enlarges it alike; over random identities the
    front stays within 4 mm of the subject's own front teeth."""
    same = subject_mouth(open_head, open_head.v_template)
    torch.testing.assert_close(same.center, open_head.mouth.center, rtol=0, atol=1e-7)
    assert same.width == pytest.approx(open_head.mouth.width)
    shift = torch.tensor([0.01, -0.02, 0.03])
    grown = subject_mouth(open_head, 1.1 * open_head.v_template + shift)
    torch.testing.assert_close(grown.center, 1.1 * open_head.mouth.center + shift, rtol=0, atol=1e-6)
    assert grown.depth == pytest.approx(1.1 * open_head.mouth.depth)
    teeth = open_head.faces[open_head.regions["upper_teeth_faces"]].unique()
    for seed in range(5):
        shape = 0.7 * torch.randn(open_head.n_shape, generator=torch.Generator().manual_seed(seed))
        neutral = open_head.v_template + open_head.shape_dirs @ shape
        mouth = subject_mouth(open_head, neutral)
        assert float(mouth.center[2] + mouth.depth) == pytest.approx(float(neutral[teeth, 2].max()), abs=4e-3)


def test_meshes_that_are_no_heads_are_refused(geometry):
    flipped = geometry.vertices * [1, 1, -1]
    backwards = dataclasses.replace(geometry, vertices=flipped, joints=geometry.joints + [0, 0, -0.3])
    with pytest.raises(ValueError, match="back_of_head: 0 vertices found behind the ears"):
        back_of_head(backwards)
    no_jaw = geometry.weights.copy()
    no_jaw[:, 2] = 0
    with pytest.raises(ValueError, match="no skin vertex follows the jaw joint"):
        derive_regions(dataclasses.replace(geometry, weights=no_jaw))


class TestOverrides:
    @pytest.fixture
    def model(self, tmp_path, open_head):
        return write_flame_pickle(tmp_path / "model.pkl", open_head)

    def test_folder_beside_the_model(self, model):
        folder = model.parent / "regions"
        folder.mkdir()
        (folder / "back_of_head.txt").write_text("7 5\n5 9\n")
        np.save(folder / "surface_faces.npy", np.array([1.0, 2.0]))
        head = load_head(model)
        assert head.regions["back_of_head"].tolist() == [7, 5, 5, 9]
        assert head.regions["surface_faces"].tolist() == [1, 2]

    def test_published_masks(self, model):
        masks = {name: np.arange(k, k + 5) for k, name in enumerate(
            ("face", "lips", "left_eye_region", "left_eyeball", "right_eye_region", "right_eyeball", "boundary", "nose")
        )}  # fmt: skip
        (model.parent / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, protocol=2))
        regions = load_head(model).regions
        assert regions["mouth"].tolist() == [1, 2, 3, 4, 5]
        assert regions["left_eye"].tolist() == [2, 3, 4, 5, 6, 7]
        assert regions["eyes"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
        assert regions["lower_neck"].tolist() == [6, 7, 8, 9, 10]
        assert len(regions["back_of_head"]) > 50

    def test_an_explicit_path_wins(self, model, tmp_path):
        for place, ids in ((model.parent / "regions", "1 2 3"), (tmp_path / "mine", "4 5 6")):
            place.mkdir()
            (place / "face.txt").write_text(ids)
        assert load_head(model, regions=tmp_path / "mine").regions["face"].tolist() == [4, 5, 6]

    @pytest.mark.parametrize(
        "name, text, message",
        [
            ("nose.txt", "1 2", r"nose\.txt: unknown region 'nose'; known are back_of_head"),
            ("face.txt", "1 two", r"face\.txt: wanted a list of whole numbers"),
            ("face.txt", "", r"face\.txt: wanted a list of whole numbers, at least one"),
            ("face.txt", "1 2.5", r"face\.txt: wanted a list of whole numbers"),
            ("face.txt", "1 nan", r"face\.txt: wanted a list of whole numbers"),
            ("face.npy", "1 2", r"face\.npy: wanted a list of whole numbers"),
            ("face.txt", "1 99999", r"region face .*: index 99999 does not fit a head with 0\.\.4867"),
            ("face.txt", "-1 2", r"region face .*: index -1 does not fit"),
            ("surface_faces.txt", "9592", r"region surface_faces .*: index 9592 does not fit a head with 0\.\.9591"),
        ],
    )
    def test_wrong_files_are_named(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            load_head("open", regions=tmp_path)

    def test_wrong_sources_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none: no such masks file or folder"):
            load_head("open", regions=tmp_path / "none")
        (tmp_path / "masks.pkl").write_bytes(pickle.dumps({"nose": np.arange(3)}, protocol=2))
        with pytest.raises(ValueError, match=r"masks\.pkl: none of the FLAME masks \(face, lips"):
            load_head("open", regions=tmp_path / "masks.pkl")
