"""Adam from factors against torch.optim.Adam on dense tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from blendshape_ops import Differences, FactoredAdam, active_columns, blend_pose_color

from tests.blendshape_ops_scene import cast, make_scene, upstream

NEUTRAL_LR = torch.linspace(1e-4, 5e-3, 60, dtype=torch.float64)
DIFFERENCE_LR = torch.linspace(2e-3, 1e-5, 60, dtype=torch.float64)


def degree_at(step: int) -> int:
    return min(step // 5, 3)


def backward(neutral, differences, scene, step, backend):
    """One pass over a batch of 1 to 3 frames with codes and upstream gradients of that step."""
    frames = step % 3 + 1
    generator = torch.Generator().manual_seed(step)
    names = ("triangle_maps", "bones", "camera_centers", "pre_offsets", "post_offsets")
    drive = replace(scene.drive, **{name: getattr(scene.drive, name)[:frames] for name in names})
    beta = torch.randn(scene.drive.beta[:frames].shape, dtype=torch.float64, generator=generator)
    drive = replace(drive, beta=beta.to(neutral.dtype))
    posed = blend_pose_color(neutral, differences, scene.binding, drive, degree_at(step), backend)
    torch.autograd.backward(list(vars(posed).values()), upstream(posed, seed=step))


class DenseAdam:
    """torch.optim.Adam with a group per column, over the neutral table and a dense [N, K, 60] one."""

    def __init__(self, neutral, dense):
        self.columns = [table[..., c].clone().requires_grad_() for table in (neutral, dense) for c in range(60)]
        rates = [*NEUTRAL_LR.tolist(), *DIFFERENCE_LR.tolist()]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(self.columns, rates, strict=True)]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-15)

    def tables(self):
        return torch.stack(self.columns[:60], -1), torch.stack(self.columns[60:], -1)

    def select(self, index, fresh):
        for group in self.optimizer.param_groups:
            old = group["params"][0]
            new = old.detach()[index].clone().requires_grad_()
            state = self.optimizer.state.pop(old)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name][index]
                state[name][fresh] = 0
            self.optimizer.state[new] = state
            group["params"] = [new]
        self.columns = [group["params"][0] for group in self.optimizer.param_groups]


def densify(scene):
    """Row 1 is pruned, row 3 cloned, the last one split in two."""
    index = torch.tensor([0, *range(2, 22), 22, 22, 3])
    fresh = torch.zeros(len(index), dtype=torch.bool)
    fresh[[-3, -2, -1]] = True
    return index, fresh, scene.binding.select(index)


def test_same_trajectory_as_adam_on_dense_tables():
    scene = make_scene()
    dense = DenseAdam(scene.neutral, scene.differences.dense(6))
    neutral, differences = scene.neutral.clone().requires_grad_(), scene.differences
    factored = FactoredAdam(neutral, differences)
    for step in range(20):
        if step == 11:
            index, fresh, scene.binding = densify(scene)
            dense.select(index, fresh)
            neutral = neutral.detach()[index].requires_grad_()
            differences = differences.select(index)
            factored.select_rows(index, fresh, neutral, differences)
        dense_neutral, dense_table = dense.tables()
        pairs = (differences.gaussian.long(), differences.expression.long())
        twin = Differences(
            dense_table[pairs], differences.offsets, differences.gaussian, differences.expression, differences.mask
        )
        backward(dense_neutral, twin, scene, step, "torch")
        dense.optimizer.step()
        dense.optimizer.zero_grad()
        backward(neutral, differences, scene, step, "cpp")
        factored.step(NEUTRAL_LR, DIFFERENCE_LR, degree_at(step))
        factored.zero_grad()
    wanted_neutral, wanted_table = dense.tables()
    # Rounding (1e-16) enters Adam relative to the root of the second moment, so it stays near 1e-16 a step; gradients
    # that nearly cancel are the exception, for which 1e-10 of a step of 5e-3 leaves room.
    assert torch.allclose(neutral.detach(), wanted_neutral.detach(), rtol=0, atol=1e-12)
    assert torch.allclose(differences.dense(6), wanted_table.detach(), rtol=0, atol=1e-12)
    assert (differences.dense(6) - scene.differences.select(index).dense(6)).abs().max() > 1e-4  # it did move


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cpp_equals_torch(dtype):
    results = {}
    for backend in ("torch", "cpp"):
        scene = cast(make_scene(), dtype)
        neutral = scene.neutral.requires_grad_()
        optimizer = FactoredAdam(neutral, scene.differences, backend=backend)
        for step in range(8):
            backward(neutral, scene.differences, scene, step, "cpp")
            backward(neutral, scene.differences, scene, step, "cpp")  # factors of two passes make one step
            optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
            optimizer.zero_grad()
        results[backend] = (neutral.detach(), scene.differences.values)
    # In float32 an Adam step keeps 6e-8 of its size unless gradients cancel: measured 2e-6, over steps of 5e-3.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for got, wanted in zip(results["cpp"], results["torch"], strict=True):
        assert torch.allclose(got, wanted, rtol=0, atol=tolerance)


def test_dense_gradients_are_used_where_torch_left_them():
    moved = {}
    for kind in ("dense", "factors", "both"):
        scene = make_scene()
        scene.differences.values.requires_grad_(kind != "factors")
        optimizer = FactoredAdam(scene.neutral.requires_grad_(), scene.differences)
        if kind != "factors":
            backward(scene.neutral, scene.differences, scene, 15, "torch")
        if kind != "dense":
            scene.differences.values.requires_grad_(False)
            backward(scene.neutral, scene.differences, scene, 15, "cpp")
        optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
        moved[kind] = scene.differences.values.detach()
    assert torch.allclose(moved["dense"], moved["factors"], rtol=0, atol=1e-14)
    # Twice the gradient makes the same first step, but for the share of eps = 1e-15 beside gradients of 1e-9 and more.
    assert torch.allclose(moved["both"], moved["dense"], rtol=0, atol=1e-8)


def test_what_has_no_gradient_stays():
    scene = make_scene()
    neutral, values = scene.neutral.clone(), scene.differences.values.clone()
    optimizer = FactoredAdam(scene.neutral, scene.differences)
    optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
    assert torch.equal(scene.neutral, neutral)
    assert torch.equal(scene.differences.values, values)
    backward(scene.neutral, scene.differences, scene, 15, "cpp")  # the differences alone are trained
    optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
    assert torch.equal(scene.neutral, neutral)
    assert not torch.equal(scene.differences.values, values)


@pytest.mark.parametrize("sh_degree", range(4))
def test_columns_above_the_degree_and_the_pad_stay(sh_degree):
    scene = make_scene()
    before = scene.differences.values.clone(), scene.neutral.clone()
    neutral = scene.neutral.requires_grad_()
    optimizer = FactoredAdam(neutral, scene.differences)
    backward(neutral, scene.differences, scene, 5 * sh_degree, "cpp")
    optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, sh_degree)
    active = active_columns(sh_degree)
    for after, old in zip((scene.differences.values, neutral.detach()), before, strict=True):
        assert torch.equal(after[:, active:], old[:, active:])
        assert (after[:, :active] != old[:, :active]).all(0).any()


def test_results_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            scene = cast(make_scene(gaussians=900), torch.float32)
            neutral = scene.neutral.requires_grad_()
            optimizer = FactoredAdam(neutral, scene.differences)
            for step in (15, 16):
                backward(neutral, scene.differences, scene, step, "cpp")
                optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
                optimizer.zero_grad()
            results.append((neutral.detach(), scene.differences.values, optimizer.difference_exp_avg_sq))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_state_continues_exactly():
    def run(steps, optimizer, scene):
        for step in steps:
            backward(optimizer.neutral, scene.differences, scene, step, "cpp")
            optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, degree_at(step))
            optimizer.zero_grad()

    whole = make_scene()
    run(range(10), FactoredAdam(whole.neutral.requires_grad_(), whole.differences), whole)
    parts = make_scene()
    first = FactoredAdam(parts.neutral.requires_grad_(), parts.differences)
    run(range(4), first, parts)
    second = FactoredAdam(parts.neutral, parts.differences)
    second.load_state_dict({name: torch.as_tensor(value).clone() for name, value in first.state_dict().items()})
    run(range(4, 10), second, parts)
    assert torch.equal(parts.neutral, whole.neutral)
    assert torch.equal(parts.differences.values, whole.differences.values)


def test_vanishing_moments_do_not_slow_or_spoil():
    """Without gradients for long, moments decay below the normal numbers; parameters must then rest."""
    scene = cast(make_scene(), torch.float32)
    optimizer = FactoredAdam(scene.neutral.requires_grad_(), scene.differences)
    backward(scene.neutral, scene.differences, scene, 15, "cpp")
    optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
    optimizer.zero_grad()
    for _ in range(1200):
        scene.neutral.grad = torch.zeros_like(scene.neutral)
        optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
    assert (optimizer.neutral_exp_avg == 0).all()
    assert torch.isfinite(scene.neutral).all()


def test_bad_arguments():
    scene = make_scene()
    with pytest.raises(ValueError, match=r"betas: wanted two numbers in \[0, 1\), got \(0.9, 1\)"):
        FactoredAdam(scene.neutral, scene.differences, betas=(0.9, 1))
    with pytest.raises(ValueError, match="eps: wanted a positive number, got 0"):
        FactoredAdam(scene.neutral, scene.differences, eps=0)
    with pytest.raises(ValueError, match=r"neutral: wanted shape \[23, 60\], got \[3, 60\]"):
        FactoredAdam(scene.neutral[:3], scene.differences)
    with pytest.raises(ValueError, match="neutral, values: wanted contiguous tables"):
        FactoredAdam(scene.neutral.T.contiguous().T, scene.differences)
    optimizer = FactoredAdam(scene.neutral, scene.differences)
    with pytest.raises(ValueError, match=r"neutral_lr: wanted shape \[60\], got \[59\]"):
        optimizer.step(NEUTRAL_LR[:59], DIFFERENCE_LR, 3)
    with pytest.raises(ValueError, match=r"sh_degree: wanted 0\.\.3, got -1"):
        optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, -1)
    with pytest.raises(ValueError, match=r"optimizer state: missing \['steps'\], unexpected \['step'\]"):
        state = optimizer.state_dict()
        optimizer.load_state_dict({"step": state.pop("steps"), **state})
    with pytest.raises(ValueError, match=r"neutral_exp_avg: wanted shape \[23, 60\], got \[1, 60\]"):
        optimizer.load_state_dict({**optimizer.state_dict(), "neutral_exp_avg": torch.zeros(1, 60)})
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"differences: wanted \d+ pairs of 2 Gaussians, got \d+ of 23"):
        optimizer.select_rows(index, torch.zeros(2, dtype=torch.bool), scene.neutral[:2], scene.differences)
    for degree in (5, 15):
        backward(scene.neutral, scene.differences, scene, degree, "cpp")
    with pytest.raises(ValueError, match=r"factors: wanted one SH degree between two steps, got \[1, 3\]"):
        optimizer.step(NEUTRAL_LR, DIFFERENCE_LR, 3)
