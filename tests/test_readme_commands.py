"""The README's commands, taken out of its text and run as they stand, on a clip of 120 frames."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.tracked_head import write_tracked_head

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRAMES, SIZE = 120, 48


def command_of(script: str) -> list[str]:
    """The words of the README's first command with this script on DATA or OUT alone, comments left out."""
    commands = re.findall(rf"python ({script}[^`#\n]*)", README)
    plain = [command.split() for command in commands if not re.search("--use_|--driver|VIDEO", command)]
    found = [words for words in plain if {"DATA", "OUT"} & set(words)]
    assert found, f"README.md shows no command python {script} ... on DATA or OUT"
    return found[0]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Run a command of the README in `folder`, DATA and OUT being its subfolders; nothing can be downloaded."""
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
                                "TORCH_HOME": str(folder / "torch"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors="replace")


def output_of(words: list[str], folder: Path) -> str:
    process = start(words, folder)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def stopped_at(words: list[str], folder: Path, sign: str) -> str:
    """Run a command until it has written `sign`, press Ctrl-C, and return all it wrote."""
    process = start(words, folder)
    timer = threading.Timer(240, process.kill)
    timer.start()
    text = ""
    assert process.stdout is not None
    while sign not in text and (character := process.stdout.read(1)):
        text += character
    process.send_signal(signal.SIGINT)
    text += process.stdout.read()
    process.wait()
    timer.cancel()
    assert sign in text, text
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with DATA and OUT, after the first steps of train.py as the README calls it; and what it said.

    The default's thousands of steps would take too long here; a stop leaves a checkpoint as the end does.
    """
    folder = tmp_path_factory.mktemp("readme")
    write_tracked_head(folder / "DATA", FRAMES, SIZE)
    return folder, stopped_at(command_of("train.py"), folder, "| 1/7000")


def test_training_says_which_frames_it_learns_from(run: tuple[Path, str]) -> None:
    folder, said = run
    assert "96 frames train, 24 held out (96 to 119 of 0 to 119)" in said
    assert "Doubtful" not in said
    assert "Traceback" not in said
    assert "Held-out frames keep" not in said  # enough frames to correct the others by
    assert "continue with --resume" in said
    assert (folder / "OUT" / "checkpoints").is_dir()


def test_the_run_is_tested_shown_and_exported(run: tuple[Path, str]) -> None:
    folder, _ = run
    assert "test, whole frame, 24 frames" in output_of(command_of("test.py"), folder)
    assert (folder / "OUT" / "report.html").is_file()
    output_of(command_of("export.py"), folder)
    assert list(folder.glob("head.*"))
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 8080)) == 0
    if not taken:
        stopped_at(command_of("view.py"), folder, "Ctrl-C ends")
