"""The programs in benchmarks/: that what they compare is comparable, and that they read other tools' output rightly."""

from __future__ import annotations

import csv
import importlib
import stat
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import rasterize

from benchmarks import against_gsplat, kernels, naive, sanitize, team, training
from benchmarks.rasterizer import LEARNT, load_scene, our_steps, time_steps
from benchmarks.results import Results
from tests.subjects import write_subject
from training.team import ALONE, Team
from training.trainer import Trainer
from training.world import open_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return write_subject(tmp_path_factory.mktemp("subject"), 5, 32)


@pytest.fixture
def captured(tmp_path, generator):
    """A file of captured splats: thirty in front of a camera, and the picture that is drawn of them."""
    uniform = partial(torch.rand, generator=generator)
    data = {
        "means": 0.4 * uniform(30, 3) - 0.2, "quats": torch.nn.functional.normalize(uniform(30, 4) - 0.5, dim=1),
        "scales": 0.01 + 0.05 * uniform(30, 3), "opacities": 0.1 + 0.8 * uniform(30), "sh": uniform(30, 16, 3),
        "w2c": torch.eye(4), "K": torch.tensor([[60.0, 0, 20], [0, 60, 20], [0, 0, 1]]), "size": torch.tensor([40, 40]),
    }
    data["w2c"][2, 3] = 1
    path = tmp_path / "captured.npz"
    save_arrays(path, data)
    with torch.no_grad():
        output = rasterize(**load_scene(path, "cpu", 1, 40))
    data |= {"image": output.image[0], "alpha": output.alpha[0]}
    save_arrays(path, data)
    return path


def save_arrays(path, tensors):
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez(path, **arrays)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# The naive path ------------------------------------------------------------------------------------------------------


def training_args(subject, *more):
    flags = ["-s", str(subject), "--gaussians", "500", "--batch_sizes", "2", "--test_frames", "2", "--device", "cpu"]
    return training.parser_of(None).parse_args([*flags, *more])


@pytest.mark.parametrize("dense", [False, True])
def test_the_naive_path_trains_as_ours(subject, dense):
    settings = training.settings_of(training_args(subject), 2, 500, -1)
    world = open_world(settings.data, settings.model, 0, CPU)
    ours, plain = Trainer(settings, world, CPU), naive.NaiveTrainer(settings, world, CPU, dense=dense)
    stored, faces = len(ours.avatar.differences.values), ours.avatar.part_counts()["face"]
    assert len(plain.avatar.differences.values) == (faces * 50 if dense else stored)
    start = ours.avatar.neutral.detach().clone()
    for _ in range(5):
        got, wanted = plain.step(), ours.step()
        # Single precision in another order of summation; Adam makes whole steps of vanishing gradients.
        assert float(sum(got.losses.values())) == pytest.approx(float(sum(wanted.losses.values())), rel=1e-3)
    # The tables lag one step behind their columns, which are put together at the start of a step.
    plain.avatar.differences.values = naive.join_columns(plain._differences)
    neutral = naive.join_columns(plain._neutral)
    assert (neutral - ours.avatar.neutral).norm() < 0.02 * (ours.avatar.neutral - start).norm()
    dense_plain, dense_ours = plain.avatar.differences.dense(50), ours.avatar.differences.dense(50)
    assert (dense_plain - dense_ours).norm() < 0.02 * dense_ours.norm()


def test_rows_of_the_naive_path_say_so(subject, tmp_path):
    args = training_args(subject, "--warm_up", "0", "--steps", "1", "--results", str(tmp_path / "r.csv"))
    training.run(args, naive.NaiveTrainer, "naive")
    training.run(args, Trainer, "")
    rows = rows_of(tmp_path / "r.csv")
    assert [row["name"] for row in rows] == ["train_images_per_s"] * 2
    assert rows[0]["setting"] == rows[1]["setting"] + " naive"


# Several GPUs --------------------------------------------------------------------------------------------------------


def test_rows_of_a_team_say_how_many(subject, tmp_path):
    args = training_args(subject, "--warm_up", "0", "--steps", "1", "--results", str(tmp_path / "r.csv"))
    args.refined = False
    team.measure_team(args, ALONE)
    rows = rows_of(tmp_path / "r.csv")
    assert [row["name"] for row in rows] == ["train_images_per_s"]
    assert rows[0]["setting"].endswith(" 32x32 G=1")


def test_bytes_of_a_step_are_those_of_docs_scale(subject):
    settings = training.settings_of(training_args(subject), 4, 500, -1)
    trainer = Trainer(settings, open_world(settings.data, settings.model, 0, CPU), CPU, team=Team(0, 2))
    pairs = int((trainer.avatar.differences.offsets.diff() > 0).sum())
    assert 0 < pairs < trainer.avatar.count
    own = team.random_factors(trainer)
    assert own.v_geometry.shape == (2, trainer.avatar.count, 11)
    sent = 2 * (pairs * (11 + 3 + 3) + 50) * 4
    assert team.bytes_sent(trainer) == trainer.avatar.count * 240 + sent


# Against gsplat ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gsplat(monkeypatch):
    """Stands in for gsplat: takes and gives what its documentation says, and draws with our definition."""
    calls = SimpleNamespace(factor=1.0, options=None)

    def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
        calls.options = options
        shared = means.ndim == 2
        if shared:  # one set of splats, C cameras
            means, quats, scales, opacities, colors = (
                tensor.expand(len(viewmats), *tensor.shape) for tensor in (means, quats, scales, opacities, colors))
            views, K = viewmats, Ks
        else:  # B sets, one camera each
            assert viewmats.shape == (len(means), 1, 4, 4) and Ks.shape == (len(means), 1, 3, 3)
            views, K = viewmats[:, 0], Ks[:, 0]
        quats = torch.nn.functional.normalize(quats, dim=-1)
        output = rasterize(means, quats, scales, opacities, calls.factor * colors, views[:, :3, :3].contiguous(),
                           views[:, :3, 3].contiguous(), K, width, height, backend="torch")
        image, alpha = output.image.permute(0, 2, 3, 1), output.alpha[..., None]
        return (image, alpha, {}) if shared else (image[:, None], alpha[:, None], {})

    module = SimpleNamespace(rasterization=rasterization, __version__="0.0")
    monkeypatch.setattr(importlib, "import_module", lambda name: {"gsplat": module}[name])
    return calls


def gsplat_args(captured):
    return against_gsplat.parser_of(None).parse_args([str(captured), "--device", "cpu"])


def test_equal_rasterizers_agree(captured, gsplat, tmp_path):
    path = tmp_path / "r.csv"
    assert against_gsplat.check(gsplat_args(captured), Results(path, "x"))
    assert gsplat.options == {"near_plane": pytest.approx(0.2), "eps2d": pytest.approx(0.3), "packed": False}
    rows = rows_of(path)
    compared = ["agreement_image_psnr", "agreement_alpha_psnr", *["agreement_gradient"] * len(LEARNT)]
    assert [row["name"] for row in rows] == [*compared, *compared, "agreement_stored_psnr"]
    assert [row["setting"].split(",")[0] for row in rows[2:7]] == list(LEARNT)


def test_a_rasterizer_that_draws_otherwise_does_not_agree(captured, gsplat, capsys):
    gsplat.factor = 1.05
    assert not against_gsplat.check(gsplat_args(captured), Results(None, "x"))
    printed = capsys.readouterr().out
    for setting in ("gradients of a loss N=30 40x40", "random gradients, opacities at most 0.98 N=30 40x40"):
        assert f"image, {setting}: wanted at least 70 dB, got" in printed
        # 1 - 1 / 1.05: colours count 1.05 times.
        assert f"gradient of colors, {setting}: wanted a relative error of at most 0.01, got 0.0476" in printed
    assert "stored picture: wanted" not in printed


def test_another_picture_than_the_stored_one_is_told(captured, gsplat, capsys):
    data = dict(np.load(captured))
    np.savez(captured, **(data | {"image": data["image"] + np.float32(0.01)}))
    assert not against_gsplat.check(gsplat_args(captured), Results(None, "x"))
    assert "stored picture: wanted at least 60 dB, got 40.00" in capsys.readouterr().out


def test_splats_are_compared_below_both_caps(captured, gsplat, monkeypatch):
    data = dict(np.load(captured))
    np.savez(captured, **(data | {"opacities": np.ones_like(data["opacities"])}))
    seen: list[float] = []
    picture = against_gsplat.our_picture

    def our_picture(scene, upstream):
        seen.append(float(scene["opacities"].detach().max()))
        return picture(scene, upstream)

    monkeypatch.setattr(against_gsplat, "our_picture", our_picture)
    against_gsplat.check(gsplat_args(captured), Results(None, "x"))
    assert seen == pytest.approx([1.0, 0.98])


def test_rotation_gradients_compare_on_the_tangent():
    quats = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3, 4]]), dim=1)
    empty = {name: torch.ones(1) for name in LEARNT}
    tangent = torch.tensor([[2.0, -1, 0, 0]])
    got, wanted = (against_gsplat.Picture(empty["means"], empty["means"], empty | {"quats": tangent + radial * quats})
                   for radial in (0, 7))
    # Rounding of the projection in single precision.
    assert against_gsplat.relative_errors(got, wanted, quats)["quats"] < 1e-6


def test_all_contenders_are_timed(captured, gsplat, tmp_path):
    names = []
    for batch in (1, 2):
        scene = load_scene(captured, "cpu", batch, 40)
        for name, steps in against_gsplat.contenders(scene).items():
            time_steps(steps, f"{name} batch={batch}", batch, 1, Results(tmp_path / "r.csv", "x"))
            names.append(name)
    assert names == ["ours", "gsplat 0.0", "ours", "gsplat 0.0", "gsplat 0.0 one set of splats"]
    rows = rows_of(tmp_path / "r.csv")
    assert {row["name"] for row in rows} == {"raster_fwd_wall", "raster_fwd_bwd_wall"}
    assert len(rows) == 20 and all(float(row["value"]) > 0 for row in rows)  # of a call, and in a loop


def test_gsplat_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(SystemExit, match="gsplat cannot be imported .* install gsplat 1.5.3"):
        against_gsplat.import_gsplat()


def test_our_steps_give_gradients_and_statistics(captured, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, leaves, upstream: seen.append((outputs, leaves)))
    steps = our_steps(load_scene(captured, "cpu", 2, 40))
    steps.forward()
    assert not seen
    steps.forward_backward()
    assert [len(part) for part in seen[0]] == [2, 5]
    assert all(output.requires_grad for output in seen[0][0])


# Nsight Compute ------------------------------------------------------------------------------------------------------

HEADER = ('"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size",'
          '"Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"')
LAUNCHES = (("render_kernel", "1,000", "2,000,000", "0", "10.0", "80.0"),
            ("adam_kernel", "4,000", "12,000,000", "4,000,000", "90.0", "20.0"),
            ("render_kernel", "3,000", "4,000,000", "2,000,000", "20.0", "40.0"))


def ncu_output(launches=LAUNCHES, unit="nsecond"):
    lines = ["Reading images", "==PROF== Connected to process 7 (python3.12)", HEADER]
    units = (unit, "byte", "byte", "%", "%")
    for number, (kernel, *values) in enumerate(launches):
        for metric, unit_, value in zip(kernels.METRICS, units, values, strict=True):
            lines.append(f'"{number}","7","python3.12","127.0.0.1","{kernel}","1","7","(256, 1, 1)","(64, 1, 1)",'
                         f'"0","9.0","Command line profiler metrics","{metric}","{unit_}","{value}"')
    return "\n".join([*lines, "==PROF== Disconnected from process 7"])


def test_launches_of_a_kernel_are_added_up():
    first, second = kernels.by_kernel(kernels.read_launches(ncu_output()))
    # Of equal time, the one met first.
    assert (first.name, second.name) == ("render_kernel", "adam_kernel")
    assert first.launches == 2 and first.seconds == pytest.approx(4e-6)
    assert (first.read, first.written) == (6e6, 2e6)
    assert first.dram_share == pytest.approx((1 * 10 + 3 * 20) / 4)
    assert first.sm_share == pytest.approx((1 * 80 + 3 * 40) / 4)


def test_the_table_of_kernels():
    lines = kernels.markdown(kernels.by_kernel(kernels.read_launches(ncu_output()))).splitlines()
    assert lines[2] == "| render_kernel | 2 | 4.0 | 50.0 | 6.0 | 2.0 | 2000 | 18 | 50 |"
    assert lines[-1] == "| **all** | 3 | 8.0 | 100 | 18.0 | 6.0 | 3000 | | |"
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("unit, factor", [("ns", 1), ("usecond", 1e3), ("us", 1e3), ("msecond", 1e6), ("second", 1e9)])
def test_units_of_time(unit, factor):
    launches = kernels.read_launches(ncu_output(unit=unit))
    assert launches[0][1][kernels.TIME] == pytest.approx(1e-6 * factor)


@pytest.mark.parametrize(
    "output, message",
    [("==ERROR== ERR_NVGPUCTRPERM", "wanted CSV with the metrics of at least one kernel, got: .*ERR_NVGPUCTRPERM"),
     (ncu_output().replace('"4.0', '"n/a').replace("10.0", "n/a"), "wanted for dram__throughput.* of render_kernel"),
     (ncu_output(unit="fortnight"), "with one of the units byte, .* got '1,000' 'fortnight'"),
     (ncu_output().replace(kernels.SM_SHARE, "other"), "wanted all metrics of render_kernel, missing are sm__")],
)
def test_what_ncu_did_not_measure_is_told(output, message):
    with pytest.raises(ValueError, match=message):
        kernels.read_launches(output)


def fake_command(folder, text, status=0):
    """A program that keeps its arguments and prints `text`."""
    path, arguments = folder / "command", folder / "arguments"
    (folder / "text").write_text(text)
    path.write_text(f'#!/bin/sh\necho "$@" >> {arguments}\ncat {folder / "text"}\nexit {status}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path, arguments


def profile(command):
    return kernels.profile(Namespace(ncu=str(command), cache_control="all"), ["-s", "S"], "frame", 512, 9, 8)


def test_ncu_is_run_over_one_setting(tmp_path):
    command, arguments = fake_command(tmp_path, ncu_output())
    assert "| adam_kernel | 1 |" in profile(command)
    given = arguments.read_text()
    assert f"--metrics {','.join(kernels.METRICS)} " in given
    assert "-m benchmarks.kernels -s S --launch frame --sizes 512 --gaussians 9 --batch_sizes 8" in given


def test_ncu_missing_or_failing_is_told(tmp_path):
    with pytest.raises(SystemExit, match="--ncu: .*nothing was not found"):
        profile(tmp_path / "nothing")
    with pytest.raises(SystemExit, match="ncu ended with 3: no such device"):
        profile(fake_command(tmp_path, "no such device", 3)[0])


@pytest.mark.parametrize("what", ["step", "frame"])
def test_one_action_is_launched_under_the_profiler(subject, monkeypatch, what):
    seen: list[str] = []
    for name in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, name, partial(seen.append, name))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(Trainer, "step", lambda trainer: seen.append("step"))
    render = kernels.FastRenderer.render

    def rendered(*given):
        seen.append("frame")
        assert render(*given).image.shape == (2, 3, 32, 32)

    monkeypatch.setattr(kernels.FastRenderer, "render", rendered)
    args = training_args(subject, "--warm_up", "3")
    kernels.launch(Namespace(**vars(args), launch=what, refined=False))
    assert seen == ["step"] * 3 + [what, "start", what, "stop"]


# compute-sanitizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output, status, expected",
    [("x\n========= ERROR SUMMARY: 0 errors\n", 0, (True, "ERROR SUMMARY: 0 errors")),
     ("========= ERROR SUMMARY: 3 errors\n", 0, (False, "ERROR SUMMARY: 3 errors")),
     ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0,
      (True, "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)")),
     ("========= RACECHECK SUMMARY: 12 hazards displayed (12 errors, 0 warnings)\n", 0,
      (False, "RACECHECK SUMMARY: 12 hazards displayed (12 errors, 0 warnings)")),
     ("RuntimeError: broken\n\n", 0, (False, "failed with status 0: RuntimeError: broken")),
     ("========= ERROR SUMMARY: 0 errors\n", 1, (False, "failed with status 1: ========= ERROR SUMMARY: 0 errors")),
     ("", 2, (False, "failed with status 2: no output"))],
)
def test_verdict_of_the_sanitizer(output, status, expected):
    assert sanitize.verdict(output, status) == expected


@pytest.mark.parametrize("way, caching", [("plain", "1"), ("captured", "")])
def test_only_plain_steps_are_checked_without_caching(tmp_path, capsys, way, caching):
    command, _ = fake_command(tmp_path, "")
    command.write_text('#!/bin/sh\necho "caching ($PYTORCH_NO_CUDA_MEMORY_CACHING)"\nexit 1\n')
    args = Namespace(sanitizer=str(command), source_path=Path("S"), device="cuda", timeout=60)
    sanitize.check("memcheck", way, args)
    assert f"caching ({caching})" in capsys.readouterr().out


@pytest.mark.parametrize("found", [0, 2])
def test_the_sanitizer_runs_over_a_kind_of_training(tmp_path, capsys, found):
    command, arguments = fake_command(tmp_path, f"========= ERROR SUMMARY: {found} errors\n")
    args = Namespace(sanitizer=str(command), source_path=Path("S"), device="cuda", timeout=60)
    assert sanitize.check("memcheck", "captured", args) == (found == 0)
    assert capsys.readouterr().out.startswith(f"memcheck  captured ERROR SUMMARY: {found} errors")
    given = arguments.read_text()
    assert "--tool memcheck" in given and "-m benchmarks.sanitize -s S --device cuda --train captured" in given


def test_a_sanitizer_missing_or_slow_is_told(tmp_path, capsys):
    args = Namespace(sanitizer=str(tmp_path / "nothing"), source_path=Path("S"), device="cuda", timeout=0.2)
    with pytest.raises(SystemExit, match="--sanitizer: .*nothing was not found"):
        sanitize.check("memcheck", "plain", args)
    slow, _ = fake_command(tmp_path, "")
    slow.write_text("#!/bin/sh\nexec sleep 5\n")
    args.sanitizer = str(slow)
    assert not sanitize.check("memcheck", "plain", args)
    assert "not done after 0.2 s" in capsys.readouterr().out


def test_sanitized_training_densifies(subject):
    sanitize.train(subject, "plain", CPU)


def test_sanitized_training_that_misses_its_purpose_is_told(subject, monkeypatch):
    with pytest.raises(RuntimeError, match="wanted a captured graph, got plain steps only"):
        sanitize.train(subject, "captured", CPU)
    monkeypatch.setattr(sanitize, "STEPS", 2)  # before the first densification
    with pytest.raises(RuntimeError, match="wanted densification to change [0-9]+ Gaussians, got as many"):
        sanitize.train(subject, "plain", CPU)
