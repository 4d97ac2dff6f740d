"""Several processes train one avatar as one does: same tables, one voice, and an end with a word when one of them dies.

Two processes on a CPU (gloo). tests/test_distributed_cuda.py is what two GPUs are asked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from blendshape_ops import Differences, FactoredAdam, Factors
from safetensors.torch import load_file

from scene.split import EpochSampler
from tests.avatars import small_avatar
from tests.subjects import ROOT, write_subject
from tests.team_run import CASES, run
from training.inputs import _Upcoming
from training.team import ALONE, Team, Vote
from utils.devices import resolve_device

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SMALL = ["--test_frames", "3", "--num_face_gaussians", "300", "--num_teeth_gaussians", "20", "--batch_size", "2",
         "--iterations", "60", "--checkpoint_interval", "5", "--test_views", "1", "--densify", "False",
         "--device", "cpu"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subject(tmp_path_factory.mktemp("subject"), 12, 64)


def launch(*arguments: str) -> subprocess.Popen[str]:
    """Start `arguments` in two processes, as a user of torchrun does, in a process group of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*LAUNCH, *arguments], cwd=ROOT, env=environment, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def team_results(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes of tests/team_run.py left."""
    out = tmp_path_factory.mktemp("team")
    process = launch("-m", "tests.team_run", str(out), str(subject))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(team_results: Path, subject: Path, case: str) -> None:
    """Batches of three and two frames, refined tracking that is calibrated, densification, pruning, SSIM, extensions.

    The first case is saved and resumed on the way by the two, with densification statistics of unequal shares.

    Sums in another order differ in the last bits of float32, 6e-8 of the largest summand; 20 to 50 steps have measured
    1e-7 of the largest number (tests/team_run.py says what Adam would make of them).
    """
    alone = run(case, subject, ALONE)
    ranks = [load_file(team_results / f"{case} {rank}.safetensors") for rank in (0, 1)]
    assert len(alone["counts"].unique()) >= 4, "rows were to change on the way"
    for name, wanted in alone.items():
        got = ranks[0][name]
        assert torch.equal(got, ranks[1][name]), f"{name}: the processes have drifted apart"
        assert got.shape == wanted.shape, name
        assert float((got.double() - wanted.double()).abs().max() if got.numel() else 0) <= \
            1e-5 * float(wanted.double().abs().max() if got.numel() else 0), name


def test_a_group_that_was_left_has_no_threads(team_results: Path) -> None:
    """Though a vote whose outcome nobody asked for is still there: they would meet the interpreter's end."""
    for rank in range(2):
        threads = json.loads((team_results / f"threads{rank}.json").read_text())
        assert threads and not [name for name in threads if "gloo" in name]


def test_what_processes_tell_each_other(team_results: Path) -> None:
    first, second = (json.loads((team_results / f"talk{rank}.json").read_text()) for rank in (0, 1))
    differing = {name for name in first if first[name] != second[name]}
    assert differing == {"share", "first"}
    assert first["sum"] == [3]
    assert first["largest"] == [0]
    assert first["gather"] == [[0, 7], [1, 7]]
    assert first["vote"] == [0, 0, 0, 2, 0]  # a step after it was cast
    assert (first["all fine"], first["one fails"], first["all fail"]) == ("fine", "rank 1: bad file", "bad file")
    assert first["share"], second["share"] == (["slice(0, 2, None)", 0.4, 3], ["slice(2, 5, None)", 0.6, 3])
    assert "disagree on the answer (rank 0: 42; rank 1: 43)" in first["unequal"]


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (2, 2), (3, 2), (8, 3), (16, 5), (7, 7)])
def test_shares_make_up_the_batch(batch: int, size: int) -> None:
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    assert [frame for share in shares for frame in range(batch)[share.own]] == list(range(batch))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert {share.count for share in shares} <= {batch // size, -(-batch // size)}
    assert all(share.largest == max(share.count for share in shares) for share in shares)


def test_a_batch_smaller_than_the_team_is_refused() -> None:
    with pytest.raises(ValueError, match="--batch_size 2: 3 processes share each batch"):
        Team(0, 3).share(2)


def test_what_comes_next_is_the_own_share_of_what_comes_next() -> None:
    sampler, twin = (EpochSampler(torch.arange(10).numpy(), 5, seed=3) for _ in range(2))
    for rank in (0, 1):
        share = Team(rank, 2).share(5)
        coming = [frame for _ in range(4) for frame in twin.next()[share.own].tolist()]
        for count in (1, 4, 7):
            assert _Upcoming(sampler, share).peek(count).tolist() == coming[:count]
        twin.load_state_dict(sampler.state_dict())


def test_alone_a_vote_decides_at_once_and_nothing_is_said() -> None:
    vote = Vote(ALONE)
    assert [vote.cast(wish) for wish in (True, False, 2)] == [True, False, 2]
    ALONE.require_equal("anything", 1)
    values = torch.ones(2)
    assert ALONE.sum(values) is values
    assert ALONE.gather(values) is values
    with pytest.raises(KeyError), ALONE.together():
        raise KeyError("as it is")


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_factors_of_gaussians_with_pairs_alone_step_the_same(backend: str) -> None:
    """Gaussians without a pair say nothing about differences, so a step does not change when they are left out."""
    def factors(differences: Differences, rows: torch.Tensor) -> Factors:
        g = torch.Generator().manual_seed(1)
        v = [torch.randn(3, 40, width, generator=g) for width in (11, 3, 3)]
        directions = torch.nn.functional.normalize(v[2], dim=2)
        return Factors(v[0][:, rows], v[1][:, rows], directions[:, rows], torch.rand(3, 5, generator=g), 3)

    stepped = []
    for compact in (False, True):
        avatar = small_avatar()
        avatar = avatar if not compact else small_avatar()
        optimizer, rows = FactoredAdam(avatar.neutral, avatar.differences, backend=backend), torch.arange(40)
        if compact:
            optimizer.factored, rows = avatar.differences.with_pairs()
            assert 0 < len(rows) < 40
        optimizer.factored.factors.append(factors(optimizer.factored, rows))
        optimizer.step(torch.full((60,), 0.1), torch.full((60,), 0.1), 3)
        optimizer.zero_grad()
        assert not optimizer.factored.factors
        stepped.append((avatar.differences.values, optimizer.difference_exp_avg_sq))
    assert torch.equal(stepped[0][0], stepped[1][0])
    assert torch.equal(stepped[0][1], stepped[1][1])
    assert not torch.equal(stepped[0][0], small_avatar().differences.values)


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert resolve_device("auto", 1) == torch.device("cuda", 1)
    assert resolve_device("cuda", 0) == torch.device("cuda", 0)
    assert taken == [1, 0]
    assert resolve_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(ValueError, match="several processes take a GPU each.*got 'cuda:1'"):
        resolve_device("cuda:1", 1)
    with pytest.raises(ValueError, match="process 2 of this host has no GPU of its own, there are 2"):
        resolve_device("auto", 2)


def wait_for_checkpoint(out: Path, after: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not any(int(path.name[10:]) > after for path in out.glob("checkpoints/iteration_*[0-9]")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def workers(launcher: int) -> Iterator[tuple[int, int]]:
    """(rank, process id) of what a launcher started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        rank = re.search(rb"\0RANK=(\d+)\0", Path(f"/proc/{child}/environ").read_bytes())
        if rank:
            yield int(rank[1]), int(child)


def newest(out: Path) -> int:
    return max(int(path.name[10:]) for path in out.glob("checkpoints/iteration_*[0-9]"))


def test_stopped_killed_and_resumed_on_another_number(subject: Path, tmp_path: Path) -> None:
    """Ctrl-C in two processes, --resume in two, one of which is killed, --resume in one, to the end."""
    command = ["train.py", "-s", str(subject), "-m", str(tmp_path), *SMALL]
    process = launch(*command)
    wait_for_checkpoint(tmp_path, 0, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the launcher and to both processes
    text = process.communicate(timeout=300)[0]
    stopped = newest(tmp_path)
    assert 5 <= stopped < 60
    assert text.count(f"train.py: stopped after iteration {stopped}; continue with --resume") == 1, text
    assert text.count("9 frames train, 3 held out") == 1

    process = launch(*command, "--resume")
    wait_for_checkpoint(tmp_path, stopped, process)
    os.kill(dict(workers(process.pid))[1], signal.SIGKILL)
    text = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert f"Resuming after iteration {stopped}" in text
    assert len(re.findall(r"train\.py: rank 1 of 2: process \d+ of \S+ ended unexpectedly", text)) == 1, text
    saved = newest(tmp_path)
    assert f"the newest checkpoint is {tmp_path}/checkpoints/iteration_{saved:08d}; continue from it with --resume" in \
        text

    alone = [sys.executable, *command, "--resume"]
    result = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"Resuming after iteration {saved}" in result.stderr
    rows = [line.split(",") for line in (tmp_path / "training.csv").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert float(rows[-1][2]) > float(rows[0][2]) + 2  # dB; measured 5
    assert not list(tmp_path.glob("**/*tmp*"))


@pytest.mark.parametrize(("flags", "message"), [
    (["--batch_size", "1"], "train.py: --batch_size 1: 2 processes share each batch"),
    (["--itterations", "3"], "train.py: unknown flag --itterations."),
])
def test_what_the_user_got_wrong_is_said_once(tmp_path: Path, flags: list[str], message: str) -> None:
    process = launch("train.py", "-s", str(tmp_path), "-m", str(tmp_path / "out"), *SMALL, *flags)
    text = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert text.count(message) == 1, text
    assert 'train.py", line' not in text, "no traceback of ours"
    assert not (tmp_path / "out").exists()
