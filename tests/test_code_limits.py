"""How far expression codes drive the differences: laws of `limit_codes`."""

from __future__ import annotations

import pytest
import torch
from blendshape_ops import CODE_SLACK, limit_codes

RANGE = torch.tensor([[-0.2, 0.0, 0.0, -0.5], [0.8, 0.6, 0.0, 0.0]], dtype=torch.float64)  # the third never moved


def limited(*codes: float) -> list[float]:
    return limit_codes(torch.tensor([codes], dtype=torch.float64), RANGE)[0].tolist()


def test_codes_of_training_are_left_as_they_are() -> None:
    share = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    codes = (RANGE[0] + share * (RANGE[1] - RANGE[0])).float()
    assert torch.equal(limit_codes(codes, RANGE.float()), codes)
    assert torch.equal(limit_codes(RANGE, RANGE), RANGE)


def test_a_little_outside_only_the_code_itself_is_limited() -> None:
    assert limited(0.8 + 0.9 * CODE_SLACK, 0.3, 0, -0.1) == [0.8, 0.3, 0, -0.1]
    assert limited(0.4, -0.9 * CODE_SLACK, 0, -0.1) == [0.4, 0, 0, -0.1]


def test_far_outside_all_codes_of_the_frame_are_shortened() -> None:
    """A mouth open twice as wide as training saw: half of everything, but for the slack."""
    share = (0.8 + CODE_SLACK) / 1.6
    assert limited(1.6, 0.3, 0, -0.1) == pytest.approx([0.8, share * 0.3, 0, share * -0.1])
    # the one that is farthest out decides; on the side where training saw nothing the slack is all there is
    share = CODE_SLACK / 0.4
    assert limited(1.6, 0.3, 0, 0.4) == pytest.approx([share * 1.6, share * 0.3, 0, 0])
    assert limited(1.6, 0.3, 0, -0.1) != limited(0.8, 0.3, 0, -0.1)


def test_a_code_that_training_never_moved_has_no_say() -> None:
    assert limited(0.4, 0.3, 5.0, -0.1) == [0.4, 0.3, 0, -0.1]


def test_frames_are_limited_one_by_one() -> None:
    codes = 2 * torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = limit_codes(codes, RANGE)
    for frame, wanted in zip(codes, together, strict=True):
        assert torch.equal(limit_codes(frame[None], RANGE)[0], wanted)
    assert (together >= RANGE[0]).all()
    assert (together <= RANGE[1]).all()


def test_no_jumps_and_gradients_of_the_definition() -> None:
    """A path from the neutral face far out: steps of the result are no longer than those of the codes."""
    way = torch.linspace(0, 3, 3001, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 0.2, 0.3, -0.1]])
    assert float(limit_codes(way, RANGE).diff(dim=0).abs().amax()) <= float(way.diff(dim=0).abs().amax()) * (1 + 1e-9)
    codes = torch.tensor([[1.6, 0.3, 0.1, -0.1], [0.3, 0.2, 0.0, -0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: limit_codes(c, RANGE)[:, [0, 1, 3]], codes)


def test_without_limits_and_without_codes() -> None:
    infinite = torch.full((2, 4), float("inf")) * torch.tensor([[-1.0], [1.0]])
    codes = torch.tensor([[4.0, -3.0, 0.0, 1e3]])
    assert torch.equal(limit_codes(codes, infinite), codes)
    assert limit_codes(codes[:, :0], infinite[:, :0]).shape == (1, 0)


@pytest.mark.parametrize("tiny", [1e-19, 1e-30, 1e-44])
def test_a_code_next_to_nothing_has_a_gradient(tiny: float) -> None:
    """Fits make such codes where the picture hardly depends on one. The reach over it, squared, is infinite."""
    codes = torch.tensor([[1.6, tiny, 0.3, -tiny]], requires_grad=True)
    limit_codes(codes, RANGE.float()).sum().backward()
    assert codes.grad is not None
    share = (0.8 + CODE_SLACK) / 1.6
    assert codes.grad[0].tolist() == pytest.approx([0, share, 0, share], abs=1e-6)  # float32 rounding
