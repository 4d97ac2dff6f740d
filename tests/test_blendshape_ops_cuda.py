"""The CUDA kernels of blendshape_ops and simple_knn against the definitions in double precision on the CPU."""

from __future__ import annotations

import pytest
import simple_knn
import torch
from blendshape_ops import FactoredAdam, _native, blend_pose_color, image_loss

from tests.blendshape_ops_scene import SHARED, cast, make_scene, relative_error, upstream, values_and_gradients
from tests.test_image_loss import BACKGROUNDS, WEIGHTS, make_images

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and _native.is_built("cuda")), reason="needs a GPU and its build"
    ),
]

# Single precision, as for the C++ build (tests/test_blendshape_ops.py): the arithmetic is the same header.
SINGLE = 3e-5


def assert_close(got, wanted, tolerance=SINGLE):
    errors = {name: relative_error(got[name], wanted[name]) for name in wanted}
    assert all(torch.isfinite(t).all() for t in got.values())
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 11])
def test_blend_equals_definition(sh_degree, frames):
    scene = make_scene(frames=frames, gaussians=70)
    got = values_and_gradients(cast(scene, torch.float32, DEVICE), sh_degree, "cuda")
    assert_close(got, values_and_gradients(scene, sh_degree, "torch"))


@pytest.mark.parametrize(
    "sizes",
    [
        {"gaussians": 0},
        {"gaussians": 1},
        {"gaussians": 700, "frames": 4},
        {"density": 0.0},
        {"triangles": 0},
        {"gaussians": 2000, "triangles": 3},  # many pieces a triangle
        {"frames": 0},
        {"expressions": 1},
        {"expressions": 100, "frames": 8},
    ],
    ids=str,
)
def test_blend_at_other_sizes(sizes):
    scene = make_scene(**sizes)
    got = values_and_gradients(cast(scene, torch.float32, DEVICE), 3, "cuda")
    assert_close(got, values_and_gradients(scene, 3, "torch"))


def test_blend_of_many_gaussians_equals_cpp_and_repeats():
    scene = cast(make_scene(gaussians=20000, expressions=50, triangles=500), torch.float32)
    wanted = values_and_gradients(scene, 3, "cpp")
    there = cast(scene, torch.float32, DEVICE)
    got = values_and_gradients(there, 3, "cuda")
    # What thousands of Gaussians add to is summed in another order: 1e-7 times the root of their number.
    assert_close(got, wanted, 3e-4)
    again = values_and_gradients(there, 3, "cuda")
    shared = {f"v_{name}" for name in SHARED}  # summed by atomics
    assert all(torch.equal(again[name], got[name]) for name in got if name not in shared)


def adam_run(scene, backend, steps):
    neutral = scene.neutral.requires_grad_()
    optimizer = FactoredAdam(neutral, scene.differences, backend=backend)
    rates = torch.linspace(1e-4, 5e-3, 60), torch.linspace(2e-3, 1e-5, 60)
    for step in range(steps):
        degree = min(step // 2, 3)
        for _ in range(1 + step % 2):
            posed = blend_pose_color(neutral, scene.differences, scene.binding, scene.drive, degree, backend)
            torch.autograd.backward(list(vars(posed).values()), upstream(posed, seed=step))
        optimizer.step(*rates, degree)
        optimizer.zero_grad()
    return {"neutral": neutral.detach(), "values": scene.differences.values}, optimizer


@pytest.mark.parametrize("frames", [1, 3, 40, 100, 300])
def test_adam_equals_cpp(frames):
    scene = make_scene(frames=frames, gaussians=50)
    got, optimizer = adam_run(cast(scene, torch.float32, DEVICE), "cuda", 9)
    wanted, reference = adam_run(cast(scene, torch.float64), "cpp", 9)
    # Steps are of 5e-3; where gradients nearly cancel, a step keeps only some 1e-3 of itself in single precision.
    for name, table in wanted.items():
        assert torch.allclose(got[name].double().cpu(), table, rtol=0, atol=1e-5), name
    assert int(optimizer.steps) == int(reference.steps) == 9
    for name in ("neutral_exp_avg", "difference_exp_avg_sq"):
        assert relative_error(getattr(optimizer, name), getattr(reference, name)) < SINGLE


def test_adam_leaves_inactive_columns():
    scene = cast(make_scene(), torch.float32, DEVICE)
    before = scene.differences.values.clone()
    adam_run(scene, "cuda", 2)  # degree 0: columns 0 to 13
    assert torch.equal(scene.differences.values[:, 14:], before[:, 14:])


def test_a_captured_step_keeps_counting():
    scene = cast(make_scene(), torch.float32, DEVICE)
    neutral = scene.neutral.requires_grad_()
    eager, captured = neutral.detach().clone().requires_grad_(), neutral
    rates = torch.full((60,), 1e-3, dtype=torch.float64, device=DEVICE)
    gradient = torch.randn_like(neutral)
    optimizers = [FactoredAdam(table, scene.differences) for table in (eager, captured)]
    eager.grad, captured.grad = gradient.clone(), gradient.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[1].step(rates, rates, 3)
    for _ in range(5):
        graph.replay()
        optimizers[0].step(rates, rates, 3)
    assert int(optimizers[1].steps) == 5
    assert torch.equal(eager, captured)


def loss_and_gradients(images, background, composite, backend, device="cpu"):
    image, alpha, target = (t.to(device) for t in images)
    image, alpha = image.clone().requires_grad_(), alpha.clone().requires_grad_()
    colour = None if background is None else background.to(image)
    total, terms = image_loss(image, alpha, target, colour, composite, **WEIGHTS, backend=backend)
    (3 * total).backward()
    assert image.grad is not None
    assert alpha.grad is not None
    return {"total": total.detach(), "terms": terms, "image": image.grad, "alpha": alpha.grad}


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 5, 3), (1, 32, 64), (3, 33, 70), (1, 97, 40)], ids=str)
@pytest.mark.parametrize("composite", [True, False])
def test_image_loss_equals_definition(size, composite):
    wanted = loss_and_gradients(make_images(*size), BACKGROUNDS["coloured"], composite, "torch")
    images = tuple(t.float() if t.is_floating_point() else t for t in make_images(*size))
    got = loss_and_gradients(images, BACKGROUNDS["coloured"], composite, "cuda", DEVICE)
    assert_close(got, wanted)
    again = loss_and_gradients(images, BACKGROUNDS["coloured"], composite, "cuda", DEVICE)
    assert all(torch.equal(again[name], got[name]) for name in got)


def test_image_loss_without_gradients():
    images = [t.to(DEVICE) for t in make_images(1, 40, 40, torch.float32)]
    total, _ = image_loss(images[0], images[1], images[2], None, True, **WEIGHTS, backend="cuda")
    image, alpha, target = make_images(1, 40, 40)
    wanted, _ = image_loss(image, alpha, target, None, True, **WEIGHTS)
    assert relative_error(total, wanted) < SINGLE


@pytest.mark.parametrize("count, k", [(9, 3), (256, 1), (1000, 3), (700, 8), (50, 9)])
def test_knn_equals_tree(count, k):
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    points[1] = points[0]
    got = simple_knn.mean_squared_distances(points.to(DEVICE), k)
    assert got.device.type == torch.device(DEVICE).type
    assert torch.allclose(got.cpu(), simple_knn.mean_squared_distances(points, k), rtol=1e-5)


def test_only_single_precision():
    scene = cast(make_scene(), torch.float64, DEVICE)
    arguments = (scene.neutral, scene.differences, scene.binding, scene.drive, 3)
    with pytest.raises(TypeError, match="backend: 'cuda' wants float32, got torch.float64"):
        blend_pose_color(*arguments, "cuda")
    assert torch.isfinite(blend_pose_color(*arguments).means).all()  # auto falls to the definition
