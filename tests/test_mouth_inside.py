"""What only a wider open mouth would show: how it is found, and that training makes it dark and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from blendshape_ops import SH, SH_C0, Posed
from torch import Tensor

from arguments import TrainSettings
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle
from gaussian_renderer import Cameras, render
from scene.avatar import FACE, Avatar
from scene.checkpoint import CheckpointError, newest_checkpoint, save_checkpoint
from scene.dataset import Dataset
from scene.initialize import DARK
from scene.rig import Codes
from tests.refinement_scene import HELD_OUT, true_avatar, true_world
from tests.test_refinement import train_settings
from training.mouth_inside import (
    OPENED,
    OPENINGS,
    SPREAD,
    UNCOVERED,
    WIDEST,
    Hidden,
    MouthInside,
    chosen_frames,
    hidden_in_mouth,
    mouth_windows,
    with_open_jaw,
)
from training.team import ALONE, Team
from training.trainer import Trainer
from training.unseen import own_frames, shown_pixels
from training.world import World

DEGREE = 3
START = 5  # steps of a run before the loss counts


def jaw_turn(codes: Codes) -> Tensor:
    return matrix_to_axis_angle(matrix_from_6d(codes.jaw))[:, 0]


def test_an_opened_jaw_takes_its_expression_along() -> None:
    """The open head moves its lips by an expression that the jaw's turn belongs to; FLAME by the jaw alone."""
    world = true_world()
    codes = world.clip.codes
    opened = with_open_jaw(codes, world.head, 0.2)
    moved = (opened.expression != codes.expression).nonzero()[:, 1].unique().tolist()
    assert [world.head.expression_names[number] for number in moved] == ["jawOpen"]
    rise = (opened.expression - codes.expression)[:, moved[0]]
    torch.testing.assert_close(rise * world.head.expression_jaw[moved[0], 0], torch.full_like(rise, 0.2))
    at_rest = replace(codes, jaw=torch.tensor([1.0, 0, 0, 0, 1, 0]).expand_as(codes.jaw))
    torch.testing.assert_close(jaw_turn(with_open_jaw(at_rest, world.head, 0.2)), torch.full((len(codes),), 0.2))
    apart = replace(world.head, expression_jaw=torch.zeros_like(world.head.expression_jaw))
    assert torch.equal(with_open_jaw(codes, apart, 0.2).expression, codes.expression)
    assert torch.equal(with_open_jaw(codes, apart, 0.2).jaw, opened.jaw)
    lower, wide = world.rig.posed.lower_teeth, world.rig.with_codes(opened).posed.lower_teeth
    tooth = world.mouth.lower.mean(dim=0)
    fall = (lower[:, :, :3] @ tooth + lower[:, :, 3])[:, 1] - (wide[:, :, :3] @ tooth + wide[:, :, 3])[:, 1]
    assert (fall > 5e-3).all(), "the lower teeth go down, by more than 5 mm of a lever of some 8 cm"


def test_windows_are_the_box_of_what_is_projected() -> None:
    K = torch.tensor([[[10.0, 0, 8], [0, 10.0, 6], [0, 0, 1]]])
    cameras = Cameras(torch.eye(3)[None], torch.zeros(1, 3), K, 16, 12)
    corners = torch.tensor([[[-0.3, -0.2, 1.0], [0.2, 0.35, 1.0], [0.0, 0.0, 2.0]]])  # x 5 to 10, y 4 to 9.5
    wanted = torch.zeros(1, 12, 16)
    wanted[:, 4:9, 5:10] = 1
    assert torch.equal(mouth_windows(corners, cameras), wanted)


def test_shares_of_a_window() -> None:
    posed, cameras = drawn(true_world(), true_avatar(), torch.tensor([0]))
    window = torch.zeros(1, cameras.height, cameras.width)
    window[:, : cameras.height // 2] = 1
    parts = shown_pixels(posed, cameras, window) + shown_pixels(posed, cameras, 1 - window)
    torch.testing.assert_close(parts, shown_pixels(posed, cameras), rtol=1e-5, atol=1e-5)  # sums in single precision


def drawn(world: World, avatar: Avatar, frames: Tensor, limited: bool = True) -> tuple[Posed, Cameras]:
    cameras = world.cameras_of(frames)
    with torch.no_grad():
        return avatar.pose(world.rig.drive(frames, cameras.centers), DEGREE, limited), cameras


def with_white_teeth() -> Avatar:
    """The true avatar whose teeth, most of them behind its lips, are white."""
    avatar = true_avatar()
    with torch.no_grad():
        avatar.neutral[avatar.part != FACE, SH.start:SH.start + 3] = 0.5 / SH_C0
    return avatar


def brute_share(posed: Posed, cameras: Cameras, number: int, windows: Tensor | None = None) -> float:
    """The definition: of Gaussians that are black but for a white one, the picture is that one's weights."""
    colors = torch.zeros_like(posed.colors)
    colors[:, number] = 1
    picture = render(replace(posed, colors=colors), cameras).image[:, 0]
    return float((picture if windows is None else picture * windows).sum(dim=(1, 2)).max())


def test_what_is_hidden_is_what_the_definition_says() -> None:
    world = true_world()
    avatar = with_white_teeth()
    shown, opened = chosen_frames(world)
    assert shown.tolist() == opened.tolist() == list(range(HELD_OUT)), "of so few frames all, but none held out"
    hidden = hidden_in_mouth(world, avatar, DEGREE, 3, ALONE)
    found = dict(zip(hidden.rows.tolist(), hidden.surplus.tolist(), strict=True))
    assert list(found) == sorted(found) and len(found) < avatar.count / 4
    assert max(found.values()) > 1, "there is something to be found"
    some = sorted({*found, *range(0, avatar.count, 9)})
    wanted = {number: -UNCOVERED * brute_share(*drawn(world, avatar, shown, limited=False), number) for number in some}
    uncovered = dict.fromkeys(some, 0.0)
    for angle in OPENINGS:
        wide = replace(world, rig=world.rig.with_codes(with_open_jaw(world.clip.codes, world.head, angle)))
        posed, cameras = drawn(wide, avatar, opened)
        windows = mouth_windows(wide.rig.posed.vertices[opened][:, world.head.regions["mouth"]], cameras)
        uncovered = {n: max(most, brute_share(posed, cameras, n, windows)) for n, most in uncovered.items()}
    for number in some:  # sums of some thousand pixels in single precision
        assert found.get(number, 0.0) == pytest.approx(max(wanted[number] + uncovered[number], 0.0), abs=1e-3)


def test_of_a_long_clip_the_widest_mouths_and_some_others_are_looked_at() -> None:
    world = true_world()
    count = 500
    angles = torch.zeros(count, 3)
    angles[100:110, 0] = 0.3
    jaw = matrix_to_6d(matrix_from_axis_angle(angles))
    codes = replace(world.clip.codes, jaw=jaw)
    data: Dataset = SimpleNamespace(  # type: ignore[assignment]
        train_indices=np.arange(400), by_size=lambda frames: [frames[:300], frames[300:]])
    shown, opened = chosen_frames(replace(world, clip=replace(world.clip, codes=codes), dataset=data))
    assert set(range(100, 110)) <= set(shown.tolist()) <= set(range(300)), "of the size that most have"
    assert len(shown) <= WIDEST + SPREAD and len(opened) == OPENED
    assert set(opened.tolist()) <= set(shown.tolist()) and opened[0] == 0 and opened[-1] > 250


def test_each_process_looks_at_a_part() -> None:
    frames = torch.arange(5)
    second: Team = SimpleNamespace(rank=1, size=2)  # type: ignore[assignment]
    assert own_frames(frames, second).tolist() == [1, 3]
    assert own_frames(frames[:1], second).tolist() == [0], "too few to be shared"


def test_lightness() -> None:
    """Two pixels of white, one of what is dark already, and half of each channel's view-dependent coefficients."""
    neutral = torch.zeros(4, 60)
    neutral[:, SH.start:SH.start + 3] = DARK
    neutral[1, SH.start:SH.start + 3] += torch.tensor([0.3, 0.6, -5.0])
    neutral[2, SH.start + 3:SH.stop] = -0.1
    hidden = Hidden(torch.tensor([0, 1, 2]), torch.tensor([9.0, 2.0, 3.0]))
    assert float(hidden.lightness(neutral)) == pytest.approx(SH_C0 * (2 * 0.3 + 3 * 0.1))
    table = neutral.requires_grad_()
    hidden.lightness(table).backward()
    assert table.grad is not None and not table.grad[3].any(), "what is not hidden stays"
    smooth = torch.rand(3, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    doubles = Hidden(torch.tensor([0, 2]), torch.tensor([2.0, 3.0]).double())
    assert torch.autograd.gradcheck(doubles.lightness, smooth.requires_grad_())


def dark_settings(folder: Path, weight: float) -> TrainSettings:
    settings = train_settings(folder, refine_from_iter=3_000)  # a thousandth of the schedule: 3
    return replace(settings, optimization=replace(settings.optimization, dark_mouth_loss=weight,
                                                  dark_mouth_from_iter=1000 * START))


def trainer(folder: Path, weight: float = 50.0) -> Trainer:
    mine = Trainer(dark_settings(folder, weight), true_world(), torch.device("cpu"))
    mine.avatar = with_white_teeth()
    mine._renew_optimizer()
    return mine


def test_training_makes_it_dark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = trainer(tmp_path)
    plain = trainer(tmp_path, 0)
    for _ in range(START):
        terms = mine.step().losses
        plain.step()
    assert torch.equal(mine.avatar.neutral, plain.avatar.neutral), "nothing before its iteration"
    assert terms["dark_mouth"] == 0
    with caplog.at_level(logging.INFO):
        terms = mine.step().losses
    hidden = mine._mouth_inside.hidden
    assert hidden is not None
    assert f"{len(hidden.rows)} Gaussians that training hides in the mouth learn to be dark" in caplog.text
    assert terms["dark_mouth"] > 0
    most = int(hidden.rows[hidden.surplus.argmax()])
    assert mine.avatar.part[most] != FACE
    before = mine.avatar.neutral[most, SH].detach().clone()
    for _ in range(30):
        mine.step()
    rate = mine.settings.optimization.feature_lr
    # Adam's steps are as long as its rate while the sign of a gradient stays.
    assert (mine.avatar.neutral[most, SH][:3] < before[:3] - 20 * rate).all()
    assert mine._mouth_inside.hidden is hidden, "it is looked for once"
    assert "dark_mouth" not in plain.step().losses


def test_rows_that_change_are_looked_at_anew(tmp_path: Path) -> None:
    mine = trainer(tmp_path)
    for _ in range(START + 1):
        mine.step()
    first = mine._mouth_inside.hidden
    optimization = replace(mine.settings.optimization, densify=True, densify_from_iter=10**6, prune_unseen=0.5,
                           densify_until_iter=1000 * (START + 2))
    mine.settings = replace(mine.settings, optimization=optimization)
    assert mine.step().rows is not None
    mine.step()
    hidden = mine._mouth_inside.hidden
    assert hidden is not None and hidden is not first and int(hidden.rows.max()) < mine.avatar.count


def test_a_resumed_run_goes_on_alike(tmp_path: Path) -> None:
    whole = trainer(tmp_path)
    for iteration in range(1, START + 9):
        whole.step()
        if iteration in (START - 1, START + 4):
            whole.save(tmp_path / "checkpoints", 0)
    for iteration in (START - 1, START + 4):
        resumed = trainer(tmp_path)
        resumed.restore(newest_checkpoint(tmp_path, iteration))
        while resumed.iteration < whole.iteration:
            resumed.step()
        assert torch.equal(whole.avatar.neutral, resumed.avatar.neutral)


def test_a_run_without_it_keeps_nothing(tmp_path: Path) -> None:
    mine = trainer(tmp_path, 0)
    for _ in range(START + 2):
        mine.step()
    assert not set(MouthInside.STATE) & mine.checkpoint().training.keys()


@pytest.mark.parametrize(("rows", "surplus", "message"), [
    ([0.5], [1.0], r"wanted int64 and float32 numbers, .* got torch.float32 \[1\] and torch.float32 \[1\]"),
    ([1, 2], [1.0], r"wanted int64 and float32 numbers, .* got torch.int64 \[2\] and torch.float32 \[1\]"),
    ([1], None, r"wanted int64 and float32 numbers, .* got torch.int64 \[1\] and torch.float32 \[0\]"),
    ([3, -1], [1.0, 1.0], r"wanted numbers of Gaussians, 0 to \d+, got -1 to 3"),
    ([10**6], [1.0], r"wanted numbers of Gaussians, 0 to \d+, got 1000000 to 1000000"),
])
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, rows: list[float], surplus: list[float] | None,
                                        message: str) -> None:
    mine = trainer(tmp_path)
    mine.step()
    saved = mine.checkpoint()
    saved.training[MouthInside.STATE[0]] = torch.tensor(rows)
    if surplus is not None:
        saved.training[MouthInside.STATE[1]] = torch.tensor(surplus)
    save_checkpoint(tmp_path / "checkpoints", saved, 0)
    with pytest.raises(CheckpointError, match=f"checkpoint of iteration 1: mouth_inside.rows.*: {message}"):
        mine.restore(newest_checkpoint(tmp_path))
