"""What sways with the head's pose: codes, field, gradients, and that everything that draws draws the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from blendshape_ops import limit_codes

from arguments import OptimizationSettings
from flame.rotations import matrix_from_axis_angle
from player import Player, open_player
from reenactment.motion import clip_motion, swaying
from scene.checkpoint import CheckpointError, avatar_from_tensors, avatar_tensors, newest_checkpoint
from scene.extensions import parameter_rates
from scene.sway import CODES, EXPRESSION, KNOWN, LEVER, NEAREST, REACH, UNIT, Sway, _farthest
from tests.player_subject import EXPRESSIONS, FRAMES, lively_player, write_run
from tests.refinement_scene import true_world
from tests.test_refinement import train_settings
from training.trainer import Trainer

NONE = torch.zeros(50, 3, 0)  # no expressions, of 50 vertices
DOWN = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


@pytest.fixture
def player() -> Player:
    return lively_player()


@pytest.fixture
def sway(player: Player) -> Sway:
    assert player.avatar.sway is not None
    return player.avatar.sway


def poses(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads that turn by some ten degrees about every axis and move by centimetres."""
    R = DOWN @ matrix_from_axis_angle(0.2 * torch.randn(count, 3, generator=generator))
    return R, torch.tensor([0.0, 0.0, 0.7]) + 0.03 * torch.randn(count, 3, generator=generator)


def test_codes_are_centimetres_from_the_mean_and_limited(generator: torch.Generator) -> None:
    """Turns of 0.2 radians, which with the lever are 2 cm, and places that vary by 3 cm."""
    R, t = poses(400, generator)
    sway = Sway.at_rest(torch.zeros(50, 3), NONE, R, t)  # of a head that is a point, the place is t
    codes = sway.codes(R, t)
    assert codes.shape == (400, CODES) and codes.dtype == torch.float32
    assert float(codes.mean(dim=0).abs().max()) < 0.2
    wanted = torch.tensor([0.2 * LEVER] * 3 + [0.03] * 3) / UNIT
    assert float((codes.std(dim=0) / wanted - 1).abs().max()) < 0.15  # 400 draws, and turns are no vectors
    where = (UNIT * codes @ sway.edge.T).norm(dim=1)
    inside = where < 1 - 1e-4
    assert int(inside.sum()) == round(400 * KNOWN) and float(where.max()) < 1 + 1e-4
    torch.testing.assert_close(codes[inside, 3:], (t - t.mean(dim=0))[inside] / UNIT, atol=1e-4, rtol=1e-4)
    far = sway.codes(R[:1], t[:1] + torch.tensor([0.0, 0.0, 500.0]))
    # Straight towards the mean: of a pose far along an axis the other numbers vanish.
    assert float(far[0, 5]) * UNIT * float(sway.edge[:, 5].norm()) == pytest.approx(1, abs=1e-3)
    assert float(far[0, :5].abs().max()) < 1e-2 * float(far[0, 5])


def test_numbers_that_went_together_count_no_further_where_they_part() -> None:
    """Each within its own range, and yet a pose that training never saw."""
    along = torch.linspace(-0.05, 0.05, 50)
    t = torch.stack([along, along, torch.full((50,), 0.7)], dim=1)
    sway = Sway.at_rest(torch.zeros(9, 3), NONE[:9], DOWN.repeat(50, 1, 1), t)
    seen = sway.codes(DOWN[None], torch.tensor([[0.04, 0.04, 0.7]]))
    parted = sway.codes(DOWN[None], torch.tensor([[0.04, -0.04, 0.7]]))
    torch.testing.assert_close(seen[0, 3:], torch.tensor([4.0, 4.0, 0.0]), atol=1e-3, rtol=0)
    assert float(parted.abs().max()) < 0.4


def test_a_head_that_never_moves_has_no_codes() -> None:
    R, t = DOWN.repeat(5, 1, 1), torch.tensor([0.0, 0.0, 0.7]).repeat(5, 1)
    sway = Sway.at_rest(torch.randn(9, 3), NONE[:9], R, t)
    moved = sway.codes(matrix_from_axis_angle(torch.tensor([[0.0, 0.3, 0.0]])) @ R[:1], t[:1] + 0.1)
    assert float(moved.abs().max()) < 1e-3  # of centimetres
    one = Sway.at_rest(torch.randn(9, 3), NONE[:9], R[:1], t[:1])  # a single frame has no spread either
    assert torch.equal(one.codes(R, t), torch.zeros(5, CODES))
    assert float(one.codes(R[:1], t[:1] + 0.1).abs().max()) < 1e-3


def test_turning_the_head_is_told_by_the_turn_and_not_by_the_place(generator: torch.Generator) -> None:
    R, t = poses(200, generator)
    neutral = torch.randn(50, 3, generator=generator) * 0.1
    sway = Sway.at_rest(neutral, NONE, R, t)
    centre = neutral.mean(dim=0)
    turn = matrix_from_axis_angle(torch.tensor([[0.0, 0.1, 0.0]]))
    turned = turn @ R[:1]
    about_its_centre = (R[:1] @ centre) + t[:1] - turned @ centre
    change = sway.codes(turned, about_its_centre) - sway.codes(R[:1], t[:1])
    assert float(change[0, 3:].abs().max()) < 1e-4
    assert float(change[0, :3].abs().max()) > 0.1


def test_the_field_is_the_definition(sway: Sway, player: Player) -> None:
    """Codes in centimetres, shares by distance, slowly, and their sum of what control points do; float64."""
    head, count = player.head, player.num_expressions
    largest = head.expression_dirs[..., :count].double().norm(dim=1).amax(dim=0)
    torch.testing.assert_close(sway.unit.double(), EXPRESSION * largest / UNIT)
    torch.testing.assert_close(sway.share.sum(dim=1), torch.ones(len(head.v_template)))
    neutral = player.rig.posed.neutral
    distance = torch.cdist(neutral.double(), neutral[_farthest(neutral, sway.values.shape[1])].double())
    nearest = distance.topk(NEAREST, largest=False)
    share = torch.zeros_like(distance).scatter(1, nearest.indices, (-0.5 * (nearest.values / REACH) ** 2).softmax(1))
    torch.testing.assert_close(sway.share.double(), share, atol=1e-4, rtol=0)  # distances squared in float32
    assert bool((share > 0).any(dim=0).all())
    drive = player.rig.with_codes(player.codes_of([0, 1])).drive(torch.tensor([0, 1]), torch.zeros(2, 3))
    before = torch.zeros(2, len(sway.share), 3) if drive.pre_offsets is None else drive.pre_offsets
    after = sway.applied(drive).pre_offsets
    assert after is not None and drive.sway is not None
    codes = torch.cat([drive.sway.double(), drive.beta.double() * sway.unit.double()], dim=1)
    values = sway.values.detach().double()
    for vertex in (0, 17, len(sway.share) - 1):
        wanted = sum(float(sway.share[vertex, c]) * (codes @ values[:, c]) for c in range(values.shape[1]))
        torch.testing.assert_close((after - before)[:, vertex].detach().double(), wanted, atol=1e-8, rtol=1e-5)


def test_expressions_count_as_far_as_training_saw_them(player: Player) -> None:
    """What a smile of 0.6 does to this person says nothing about a smile of 3."""
    codes, centre = player.codes_of([1]), torch.zeros(1, 3)
    wide = dataclasses.replace(codes, expression=5 * codes.expression)
    limited = limit_codes(wide.expression[:, :player.num_expressions], player.avatar.code_range)
    assert not torch.equal(limited, wide.expression[:, :player.num_expressions])
    still = dataclasses.replace(player.avatar, sway=None)
    drive = player.rig.with_codes(wide).drive(torch.tensor([0]), centre)
    moved = player.avatar.sway.applied(dataclasses.replace(drive, beta=limited)).pre_offsets  # type: ignore[union-attr]
    wanted = still.pose(dataclasses.replace(drive, pre_offsets=moved), player.sh_degree).means
    torch.testing.assert_close(player.avatar.pose(drive, player.sh_degree).means, wanted, atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_definition(player: Player, generator: torch.Generator) -> None:
    K = player.num_expressions
    sway = Sway.at_rest(torch.randn(12, 3, generator=generator), torch.randn(12, 3, K, generator=generator),
                        *poses(30, generator))
    doubles = {item.name: getattr(sway, item.name).double() for item in dataclasses.fields(sway)}
    drive = player.rig.with_codes(player.codes_of([0, 1])).drive(torch.tensor([0, 1]), torch.zeros(2, 3))
    codes = torch.randn(2, CODES, generator=generator).double()

    def offsets(values: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        driven = dataclasses.replace(drive, sway=codes, beta=beta, pre_offsets=None)
        moved = Sway(**doubles | {"values": values}).applied(driven).pre_offsets
        assert moved is not None
        return moved

    values = torch.randn(doubles["values"].shape, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(offsets, (values, drive.beta.double().requires_grad_()))


def test_an_avatar_at_the_mean_pose_does_not_sway(player: Player) -> None:
    codes, centre = player.codes_of([0, 1]), torch.zeros(2, 3)
    still = player.pose(dataclasses.replace(codes, sway=None), centre)
    zero = player.pose(dataclasses.replace(codes, sway=torch.zeros(2, CODES)), centre)
    assert torch.equal(still.means, zero.means)
    assert float((player.pose(codes, centre).means - still.means).abs().max()) > 1e-3  # the made-up field: millimetres
    teeth = player.avatar.part != 0
    assert torch.equal(player.pose(codes, centre).means[:, teeth], still.means[:, teeth])


def test_a_clip_acted_by_itself_sways_as_it_did(player: Player) -> None:
    codes = player.codes_of(slice(None))
    found = swaying(dataclasses.replace(codes, sway=None), clip_motion(player.clip, player.head), player)
    assert found.sway is not None and codes.sway is not None
    torch.testing.assert_close(found.sway, codes.sway, atol=1e-4, rtol=1e-4)  # the head's middle is another point
    assert len(found) == FRAMES


def test_a_world_has_the_codes_of_its_moments(sway: Sway) -> None:
    world = true_world()
    again = world.swayed(sway)
    assert world.clip.codes.sway is not None and again.clip.codes.sway is not None
    assert torch.equal(again.clip.codes.sway, world.clip.codes.sway)
    drive = again.rig.drive(torch.tensor([2]), torch.zeros(1, 3))
    assert drive.sway is not None and torch.equal(drive.sway, world.clip.codes.sway[2:3])
    assert world.swayed(None) is world
    begun = world.untrained_sway()
    assert not begun.values.any() and torch.equal(begun.share, sway.share)


@pytest.mark.parametrize("batch", [1, 8, 16])
def test_a_step_is_as_long_as_its_batch_is_large(batch: int, player: Player) -> None:
    """What eight pictures one by one teach, if their gradients agree, is what they teach together."""
    rates = parameter_rates(player.avatar, OptimizationSettings(batch_size=batch, sway_lr=1e-5))
    assert rates == {"sway.values": pytest.approx(1e-5 * batch / 8)}


def test_a_resumed_run_sways_alike(tmp_path: Path) -> None:
    """To the last bit, codes and field; and the field learns."""
    base = true_world()
    untold = dataclasses.replace(base.clip, codes=dataclasses.replace(base.clip.codes, sway=None))
    world = dataclasses.replace(base, clip=untold, rig=base.rig.with_codes(untold.codes))
    settings = train_settings(tmp_path, refine_from_iter=3_000)
    settings = dataclasses.replace(settings, optimization=dataclasses.replace(settings.optimization, sway_lr=1e-4))
    whole, resumed = (Trainer(settings, world, torch.device("cpu")) for _ in range(2))
    for iteration in range(1, 9):
        whole.step()
        if iteration == 4:
            whole.save(tmp_path / "checkpoints", 0)
    resumed.restore(newest_checkpoint(tmp_path))
    for _ in range(4):
        resumed.step()
    assert whole.avatar.sway is not None and whole.clip().codes.sway is not None
    for name in ("values", "edge", "mean"):
        assert torch.equal(getattr(whole.avatar.sway, name), getattr(resumed.avatar.sway, name)), name
    assert torch.equal(whole.avatar.neutral, resumed.avatar.neutral)
    torch.testing.assert_close(whole.clip().codes.sway, resumed.clip().codes.sway, atol=0, rtol=0)
    assert float(whole.avatar.sway.values.detach().abs().max()) > 1e-4
    still = dataclasses.replace(settings, optimization=dataclasses.replace(settings.optimization, sway_lr=0.0))
    plain = Trainer(still, world, torch.device("cpu"))
    assert plain.avatar.sway is None and plain.clip().codes.sway is None
    with pytest.raises(CheckpointError, match="missing"):
        plain.restore(newest_checkpoint(tmp_path))


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("sway.share"), "sway: wanted"),
    (lambda t: t.update({"sway.more": torch.zeros(1)}), "sway: wanted"),
    (lambda t: t.update({"sway.mean": torch.zeros(5)}), "sway.mean: wanted finite float32 \\[6\\]"),
    (lambda t: t.update({"sway.mean": torch.full((6,), torch.nan)}), "sway.mean: wanted finite"),
    (lambda t: t.update({"sway.unit": t["sway.unit"][1:]}), "sway.values: wanted finite"),
    (lambda t: t.update({"sway.share": t["sway.share"][:, 1:]}), "sway.values: wanted finite"),
    (lambda t: t.update({"sway.share": t["sway.share"].long()}), "sway.share: wanted finite float32"),
], ids=["missing", "unknown", "short", "no number", "too few expressions", "too few points", "of another type"])
def test_a_damaged_sway_is_refused(player: Player, change, message: str) -> None:
    tensors = avatar_tensors(player.avatar)
    whole = avatar_from_tensors(dict(tensors), "run/avatar.safetensors")
    assert whole.sway is not None and player.avatar.sway is not None
    assert torch.equal(whole.sway.values, player.avatar.sway.values)
    change(tensors)
    with pytest.raises(CheckpointError, match="run/avatar.safetensors: " + message):
        avatar_from_tensors(tensors, "run/avatar.safetensors")


@pytest.mark.parametrize(("change", "message"), [
    (lambda sway: {"share": sway.share[:-1]}, "wanted 4868 vertices of the head, got 4867"),
    (lambda sway: {"unit": sway.unit[:-1], "values": sway.values.detach()[:-1].requires_grad_()},
     f"wanted {EXPRESSIONS} expressions, got {EXPRESSIONS - 1}"),
], ids=["vertices", "expressions"])
def test_an_avatar_of_another_heads_sway_is_refused(tmp_path: Path, player: Player, change, message: str) -> None:
    avatar = dataclasses.replace(player.avatar)
    assert avatar.sway is not None
    avatar.sway = dataclasses.replace(avatar.sway, **change(avatar.sway))
    other = Player(player.head, avatar, player.clip, player.sh_degree, player.num_expressions, player.device, "other")
    with pytest.raises(CheckpointError, match=f"sway: {message}"):
        open_player(write_run(tmp_path / "run", other), torch.device("cpu"))
