"""scripts/demo.py: finished steps are skipped, an interrupted training is resumed, a failure stops the demo."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import demo


class FakeRunner:
    """Stands in for `call`: notes each command and leaves the files that the program would leave."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.commands: list[list[str]] = []
        self.failing: str | None = None
        self.stopping: str | None = None

    def __call__(self, command: list[str]) -> tuple[int, bool]:
        program = list(command[1:])
        self.commands.append(program)
        folder = Path(program[program.index("--model_path") + 1]) if "--model_path" in program else self.out / "data"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "tensorboard").mkdir(exist_ok=True)
        names = ("metrics.json", "report.html") if program[0] == "test.py" else ("config.json", "training.csv")
        for name in names:
            (folder / name).touch()
        return int(program[0] == self.failing), program[0] == self.stopping

    def programs(self) -> list[str]:
        """What has been run since the last call, by its first word; trainings that resumed are marked."""
        names = [c[0] + (" resumed" if "--resume" in c else "") for c in self.commands]
        self.commands.clear()
        return names


ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = ["-m", "train.py", "train.py", "test.py", "test.py"]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    fake = FakeRunner(tmp_path / "demo")
    monkeypatch.setattr(demo, "call", fake)
    return fake


def test_second_run_does_nothing(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run_demo(runner.out, None) == 0
    assert runner.programs() == EVERYTHING
    assert demo.run_demo(runner.out, None) == 0
    assert runner.programs() == []
    assert str(runner.out / "report.html") in capsys.readouterr().out


def test_failure_stops_and_the_next_run_resumes(runner: FakeRunner) -> None:
    runner.failing = "train.py"
    assert demo.run_demo(runner.out, None) == 1
    assert runner.programs() == ["-m", "train.py"]
    runner.failing = None
    assert demo.run_demo(runner.out, None) == 0
    assert runner.programs() == ["train.py resumed", *EVERYTHING[2:]]


def test_lost_product_is_made_again_with_all_that_follows(runner: FakeRunner) -> None:
    demo.run_demo(runner.out, None)
    runner.programs()
    (runner.out / "without_blendshapes" / "metrics.json").unlink()
    demo.run_demo(runner.out, None)
    assert runner.programs() == EVERYTHING[3:]


def test_changed_command_removes_what_the_old_one_made(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.run_demo(runner.out, None)
    runner.programs()
    old = runner.out / "checkpoints" / "old"
    old.touch()
    monkeypatch.setattr(demo, "TRAINING", (*demo.TRAINING, "--seed", "1"))
    demo.run_demo(runner.out, None)
    assert runner.programs() == EVERYTHING[1:]
    assert not old.exists()
    assert (runner.out / "data").is_dir(), "the subject did not change and is kept"


@pytest.mark.parametrize(("stopping", "goes_on"), [("train.py", "its last checkpoint"),
                                                   ("test.py", "the start of this step")])
def test_ctrl_c_is_told_as_a_stop_and_how_it_goes_on(runner: FakeRunner, capsys: pytest.CaptureFixture[str],
                                                     stopping: str, goes_on: str) -> None:
    runner.stopping = stopping
    assert demo.run_demo(runner.out, None) == demo.STOPPED
    said = capsys.readouterr()
    assert "stopped by you, nothing is broken" in said.out and f"`make demo` goes on from {goes_on}" in said.out
    assert "failed" not in said.out + said.err
    stopped_at = len(runner.programs())
    runner.stopping = None
    assert demo.run_demo(runner.out, None) == 0
    assert len(runner.programs()) == len(EVERYTHING) - stopped_at + 1


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), print("checkpoint written", flush=True), sys.exit(1)))
print("begun", flush=True)
time.sleep(60)
"""


def test_a_stopped_command_may_end_in_its_own_time(tmp_path: Path) -> None:
    """Ctrl-C as a terminal sends it: to the whole group of processes."""
    (tmp_path / "slow.py").write_text(SLOW)
    driver = ("import sys; sys.path.insert(0, sys.argv[1]); from scripts.demo import call; "
              "print(call([sys.executable, sys.argv[2]]), flush=True)")
    process = subprocess.Popen([sys.executable, "-c", driver, str(ROOT), str(tmp_path / "slow.py")],
                               stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "checkpoint written\n(1, True)\n"


def test_make_calls_a_stop_no_error_and_a_failure_one(tmp_path: Path) -> None:
    text = (ROOT / "Makefile").read_text()
    recipe = text[text.index("\ndemo: env\n"):text.index("\ntest: lint")].replace("demo: env", "demo:")
    (tmp_path / "scripts").mkdir()
    for code, wanted in ((130, 0), (0, 0), (7, 2)):
        (tmp_path / "scripts" / "demo.py").write_text(f"raise SystemExit({code})\n")
        (tmp_path / "Makefile").write_text(f"SHELL := /bin/bash\nPY := {sys.executable}\n{recipe}\n")
        done = subprocess.run(["make", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == wanted, done.stderr
        assert ("Error 7" in done.stderr) == (code == 7)


def test_installation_names_what_it_is_at(tmp_path: Path) -> None:
    """With a stand-in for pip: nothing is hushed while packages come, and each build has its line."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup_env.sh", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "pip: $*"\n')
    python.chmod(0o755)
    script = str(tmp_path / "scripts" / "setup_env.sh")
    said = subprocess.run([script, "install", "-r", "requirements.txt"], capture_output=True, text=True, check=True)
    assert said.stdout == "pip: -m pip install -r requirements.txt\n"
    said = subprocess.run([script, "native", "0"], capture_output=True, text=True, check=True)
    built = [line for line in said.stdout.splitlines() if line.startswith("==> building")]
    assert [line.split(" from source: ")[0] for line in built] == [
        f"==> building extension package {number} of 3" for number in (1, 2, 3)]
    assert all(name in line for name, line in zip(("rasterization", "knn", "blendshape"), built, strict=True))
