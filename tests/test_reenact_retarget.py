"""Codes of one head on another, and the cures for codes out of range."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch

from flame import Head, load_head, pose_head
from reenactment.cures import TrainingRange, center, habit_of, training_range
from reenactment.curves import Curves, blink_columns
from reenactment.retarget import retarget_between, same_head
from scene.rig import Codes
from tests.player_subject import lively_codes


def rebased(head: Head, seed: int = 3) -> tuple[Head, torch.Tensor]:
    """The same faces under another basis of expressions, as FLAME's is: signed codes without names, and no jaw of their
    own in the expressions. Also the matrix M: codes b of the new head do what M b do on the old.
    """
    generator = torch.Generator().manual_seed(seed)
    count = head.n_expression
    basis = torch.linalg.qr(torch.randn(count, count, generator=generator))[0]
    M = basis * torch.linspace(0.5, 2, count)
    other = dataclasses.replace(head, name="rebased", expression_dirs=head.expression_dirs @ M,
                                expression_jaw=M.T @ head.expression_jaw,
                                expression_names=tuple(f"exp{k}" for k in range(count)))
    return other, M


@pytest.fixture(scope="module")
def heads() -> tuple[Head, Head, torch.Tensor]:
    head = load_head("open")
    return head, *rebased(head)


def face_of(head: Head, curves: Curves) -> torch.Tensor:
    """Vertices [T,F,3] of the face (the tongue, which no landmark sees, is none of it)."""
    codes = curves.codes(torch.zeros(head.n_shape))
    posed = pose_head(head, codes.shape, codes.expression, codes.jaw, codes.eyes, codes.eyelids, codes.neck)
    return posed.vertices[:, head.regions["face"]]


def coupled_curves(head: Head, frames: int = 6) -> Curves:
    """Faces as trackers write them: no tongue, the jaw turned as its expressions say, lids by the expressions."""
    curves = Curves.of(lively_codes(head, frames, seed=4))
    expression = curves.expression.clone()
    expression[:, head.expression_names.index("tongueOut")] = 0
    return dataclasses.replace(curves, expression=expression, jaw=expression @ head.expression_jaw,
                               lids=torch.zeros(frames, 2))


def test_another_basis_of_the_same_faces_gives_the_same_vertices(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    curves = coupled_curves(head)
    expected, got = face_of(head, curves), face_of(other, retarget_between(head, other)(curves))
    moved = (expected - face_of(head, coupled_curves(head, 1).with_expression(
        torch.zeros(1, head.n_expression), head))).norm(dim=-1)
    # Landmarks stand for 474 of the vertices, and the codes' own spread costs a little: a twentieth of the motion.
    error = (got - expected).norm(dim=-1)
    assert moved.mean() > 2e-3  # the faces do move, by millimetres
    assert error.mean() < 0.05 * moved.mean()


def test_signed_codes_become_codes_of_sculpted_shapes(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, M = heads
    curves = coupled_curves(head)
    there = dataclasses.replace(curves, expression=curves.expression @ torch.linalg.inv(M).T)
    assert float((face_of(other, there) - face_of(head, curves)).abs().max()) < 1e-5  # the stand-in is one
    back = retarget_between(other, head)(there)
    assert float(back.expression.min()) >= 0 and float(back.expression.max()) <= 1.1
    error = (face_of(head, back) - face_of(head, curves)).norm(dim=-1)
    assert error.mean() < 2e-4  # metres; the faces differ from rest by millimetres
    jaw = head.expression_names.index("jawOpen")
    # What the codes say, not only the mesh: an avatar's differences follow them.
    assert float((back.expression[:, jaw] - curves.expression[:, jaw]).abs().max()) < 0.1


def test_a_jaw_alone_becomes_the_expression_that_it_belongs_to(heads: tuple[Head, Head, torch.Tensor]) -> None:
    """FLAME opens the mouth with the joint alone; an ARKit-like avatar must hear of it."""
    head, _, _ = heads
    flame_like = dataclasses.replace(rebased(head)[0], expression_jaw=torch.zeros(head.n_expression, 3))
    open_mouth = Curves(torch.zeros(2, head.n_expression), torch.tensor([[0.0, 0, 0], [0.25, 0, 0]]),
                        torch.zeros(2, 6), torch.zeros(2, 2))
    found = retarget_between(flame_like, head)(open_mouth)
    jaw = head.expression_names.index("jawOpen")
    assert float(found.expression[0].abs().max()) < 1e-6
    assert float(found.expression[1, jaw]) > 0.3
    assert torch.equal(found.jaw, open_mouth.jaw)


def test_rest_stays_rest(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    rest = Curves(torch.zeros(1, head.n_expression), torch.zeros(1, 3), torch.zeros(1, 6), torch.zeros(1, 2))
    for pair in ((head, other), (other, head)):
        assert float(retarget_between(*pair)(rest).expression.abs().max()) == 0


def test_gaze_and_neck_are_passed_on(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    curves = Curves.of(lively_codes(head, 3, seed=5))
    found = retarget_between(head, other)(curves)
    assert torch.equal(found.gaze, curves.gaze) and found.neck is curves.neck


def test_head_without_landmarks_is_named(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    with pytest.raises(ValueError, match="'rebased' comes without MediaPipe landmarks"):
        retarget_between(head, dataclasses.replace(other, landmarks=None))


def test_heads_without_common_landmarks_are_named(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    assert other.landmarks is not None
    few = dataclasses.replace(other.landmarks, **{name: getattr(other.landmarks, name)[:5] for name in (
        "index", "triangle", "barycentric", "spread")})
    with pytest.raises(ValueError, match="wanted 20 landmarks or more that both have, got"):
        retarget_between(head, dataclasses.replace(other, landmarks=few))


def test_curves_of_a_third_head_are_refused(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    with pytest.raises(ValueError, match="expression: wanted 52 codes of open_head, got 7"):
        retarget_between(head, other)(Curves(torch.zeros(1, 7), torch.zeros(1, 3), torch.zeros(1, 6),
                                             torch.zeros(1, 2)))


def test_same_head(heads: tuple[Head, Head, torch.Tensor]) -> None:
    head, other, _ = heads
    assert same_head(head, dataclasses.replace(head, name="another name"))
    assert not same_head(head, other)


# Cures.


@pytest.fixture
def head() -> Head:
    return load_head("open")


def clip_like(head: Head, frames: int, seed: int) -> Curves:
    """Trained-on faces whose blinks are divided evenly, as track.py divides them."""
    codes = lively_codes(head, frames, seed)
    expression = codes.expression.clone()
    expression[:, blink_columns(head)] = 0.5 * codes.eyelids
    return dataclasses.replace(Curves.of(codes), expression=expression, lids=0.5 * codes.eyelids)


def cured(head: Head, curves: Curves, training: Curves, how: str) -> Curves:
    blinks = blink_columns(head) or []
    centred = center(curves, habit_of(curves, head, "rest"), habit_of(training, head, "rest"), head, blinks)
    return TrainingRange(head, training).project(centred, how)  # type: ignore[arg-type]


def test_an_avatar_driven_by_its_own_clip_does_what_the_clip_does(head: Head) -> None:
    own = clip_like(head, 400, seed=6)
    found = cured(head, own, own, "range")
    # A share of 0.002 at both ends is cut: the outermost frame of 400, here and there.
    for name in ("expression", "jaw", "gaze", "lids"):
        changed = (getattr(found, name) - getattr(own, name)).abs() > 1e-5
        assert float(changed.float().mean()) < 0.01, name


@pytest.mark.parametrize("which", ["rest", "mean"])
def test_a_constant_habit_of_the_driver_disappears(head: Head, which: Literal["rest", "mean"]) -> None:
    own = clip_like(head, 200, seed=6)
    shift = torch.zeros(head.n_expression)
    shift[head.expression_names.index("browInnerUp")] = 0.4
    driver = dataclasses.replace(own, expression=own.expression + shift, gaze=own.gaze + 0.2, jaw=own.jaw + 0.1)
    blinks = blink_columns(head) or []
    found = center(driver, habit_of(driver, head, which), habit_of(own, head, which), head, blinks)
    for name in ("expression", "gaze", "jaw"):
        assert torch.allclose(getattr(found, name), getattr(own, name), atol=1e-5), name


def test_how_much_somebody_talks_is_no_habit(head: Head) -> None:
    """Both faces rest with their mouths closed; the driver talks all the time, the avatar hardly ever did."""
    jaw_open = head.expression_names.index("jawOpen")

    def talking(share: float) -> Curves:
        expression = torch.zeros(100, head.n_expression)
        expression[:, jaw_open] = (torch.linspace(-1 / share + 1, 1, 100) * 0.8).clamp_min(0)
        return Curves(expression, expression @ head.expression_jaw, torch.zeros(100, 6), torch.zeros(100, 2))

    driver, avatar = talking(0.7), talking(0.1)
    found = center(driver, habit_of(driver, head, "rest"), habit_of(avatar, head, "rest"), head, [])
    assert torch.allclose(found.expression, driver.expression) and torch.allclose(found.jaw, driver.jaw, atol=1e-6)
    by_means = center(driver, habit_of(driver, head, "mean"), habit_of(avatar, head, "mean"), head, [])
    assert float((by_means.expression - driver.expression).abs().max()) > 0.2
    # FLAME has no such expression; its jaw rests likewise.
    flame_like, _ = rebased(dataclasses.replace(head, expression_jaw=torch.zeros(head.n_expression, 3)))
    assert float(habit_of(driver, flame_like, "rest").jaw.abs().max()) < 1e-6


def test_centred_sculpted_shapes_are_never_negative_and_the_jaw_follows(head: Head) -> None:
    own = clip_like(head, 50, seed=6)
    expression = torch.zeros(4, head.n_expression)
    jaw_open = head.expression_names.index("jawOpen")
    expression[:, jaw_open] = torch.tensor([0.0, 0.0, 0.0, 0.8])
    driver = Curves(expression, expression @ head.expression_jaw, torch.zeros(4, 6), torch.zeros(4, 2))
    rest = dataclasses.replace(own, expression=own.expression * 0, jaw=own.jaw * 0, gaze=own.gaze * 0)
    found = center(driver, habit_of(driver, head, "mean"), habit_of(rest, head, "mean"), head, [])
    assert float(found.expression.min()) == 0
    assert torch.allclose(found.jaw, found.expression @ head.expression_jaw, atol=1e-6)


@pytest.mark.parametrize("how", ["range", "subspace"])
def test_projected_codes_are_inside_the_training_range(head: Head, how: str) -> None:
    own = clip_like(head, 60, seed=6)
    wild = clip_like(head, 30, seed=7)
    wild = dataclasses.replace(wild, expression=4 * wild.expression, jaw=4 * wild.jaw, gaze=4 * wild.gaze)
    found = TrainingRange(head, own).project(wild, how)  # type: ignore[arg-type]
    rest = torch.zeros(1, head.n_expression)
    seen = torch.cat([own.expression, rest])
    assert (found.expression <= seen.max(0).values + 1e-6).all() and (found.expression >= seen.min(0).values).all()
    assert (found.jaw.abs() <= own.jaw.abs().max(0).values + 1e-6).all()
    assert (found.gaze.abs() <= own.gaze.abs().max(0).values + 1e-6).all()
    assert not torch.allclose(found.expression, wild.expression)


def test_subspace_removes_combinations_that_never_occurred(head: Head) -> None:
    left, right = (head.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    expression = torch.zeros(100, head.n_expression)
    expression[:, left] = expression[:, right] = torch.linspace(0, 1, 100)
    none = torch.zeros(100, 2)
    own = Curves(expression, torch.zeros(100, 3), torch.zeros(100, 6), none)
    lopsided = torch.zeros(1, head.n_expression)
    lopsided[0, left] = 0.8
    driver = Curves(lopsided, torch.zeros(1, 3), torch.zeros(1, 6), none[:1])
    limits = TrainingRange(head, own)
    both = limits.project(driver, "subspace").expression[0, [left, right]]
    assert torch.allclose(both, torch.tensor([0.4, 0.4]), atol=0.01)
    assert torch.equal(limits.project(driver, "range").expression[0, [left, right]], lopsided[0, [left, right]])


def test_lips_that_cannot_close_over_an_open_jaw_close_the_jaw(head: Head) -> None:
    """The avatar's clip has jawOpen, but not ARKit's mouthClose."""
    jaw, shut = (head.expression_names.index(name) for name in ("jawOpen", "mouthClose"))
    expression = torch.zeros(50, head.n_expression)
    expression[:, jaw] = torch.linspace(0, 1, 50)
    own = Curves(expression, expression @ head.expression_jaw, torch.zeros(50, 6), torch.zeros(50, 2))
    chewing = torch.zeros(2, head.n_expression)
    chewing[:, jaw], chewing[:, shut] = torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.0])
    driver = Curves(chewing, chewing @ head.expression_jaw, torch.zeros(2, 6), torch.zeros(2, 2))
    found = TrainingRange(head, own).project(driver, "range")
    assert found.expression[:, jaw].tolist() == pytest.approx([0.1, 0.5], abs=1e-5)
    assert torch.allclose(found.jaw, found.expression @ head.expression_jaw, atol=1e-5)


def test_a_blink_is_never_cut(head: Head) -> None:
    """The avatar's clip has half blinks only, all in the expression; the driver's lids close."""
    blinks = blink_columns(head) or []
    expression = torch.zeros(50, head.n_expression)
    expression[:, blinks] = torch.linspace(0, 0.5, 50)[:, None]
    own = Curves(expression, torch.zeros(50, 3), torch.zeros(50, 6), torch.zeros(50, 2))
    driver = Curves(torch.zeros(2, head.n_expression), torch.zeros(2, 3), torch.zeros(2, 6),
                    torch.tensor([[1.0, 1.0], [0.3, 0.0]]))
    found = TrainingRange(head, own).project(driver, "range")
    assert torch.allclose(found.expression[:, blinks] + found.lids, driver.lids, atol=1e-6)
    assert torch.allclose(found.expression[0, blinks], torch.tensor([0.5, 0.5]), atol=0.01)
    assert torch.allclose(found.lids[1], torch.zeros(2), atol=1e-6)


def test_a_clip_without_training_frames_is_refused(head: Head) -> None:
    codes = Codes(torch.zeros(head.n_shape), torch.zeros(0, head.n_expression), torch.zeros(0, 6), torch.zeros(0, 12),
                  torch.zeros(0, 2))
    with pytest.raises(ValueError, match="no training frames"):
        training_range(head, codes)


def test_curves_are_codes_and_back(head: Head) -> None:
    codes = lively_codes(head, 5, seed=8)
    again = Curves.of(codes).codes(codes.shape)
    for name in ("expression", "jaw", "eyes", "eyelids", "neck"):
        assert torch.allclose(getattr(again, name), getattr(codes, name), atol=1e-5), name
