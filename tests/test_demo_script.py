"""scripts/demo.py: finished steps are skipped, an interrupted training is resumed, a failure stops the demo."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import demo


class FakeRunner:
    """Stands in for subprocess.run: notes each command and leaves the files that the program would leave."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.commands: list[list[str]] = []
        self.failing: str | None = None

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        program = list(command[1:])
        self.commands.append(program)
        folder = Path(program[program.index("--model_path") + 1]) if "--model_path" in program else self.out / "data"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "tensorboard").mkdir(exist_ok=True)
        names = ("metrics.json", "report.html") if program[0] == "test.py" else ("config.json", "training.csv")
        for name in names:
            (folder / name).touch()
        return subprocess.CompletedProcess(command, int(program[0] == self.failing))

    def programs(self) -> list[str]:
        """What has been run since the last call, by its first word; trainings that resumed are marked."""
        names = [c[0] + (" resumed" if "--resume" in c else "") for c in self.commands]
        self.commands.clear()
        return names


EVERYTHING = ["-m", "train.py", "train.py", "test.py", "test.py"]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    fake = FakeRunner(tmp_path / "demo")
    monkeypatch.setattr(demo.subprocess, "run", fake)
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
