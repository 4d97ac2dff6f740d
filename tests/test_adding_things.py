"""CONTRIBUTING.md, "Adding things": its blocks are inserted into a copy of the tree, and what they add takes part."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flame.load import OPEN_HEAD
from tests.subjects import ROOT, write_subject

UNITS = ("arguments", "evaluation", "exporting", "flame", "gaussian_renderer", "player", "reenactment", "scene",
         "tracking", "training", "utils")
STEP = re.compile(r"In `(?P<file>[^`]+)`, (?P<where>above|in) `(?P<name>\w+)`:\s+```python\n(?P<code>.*?)```",
                  re.DOTALL)


def insertion_line(source: str, name: str, where: str) -> int:
    """How many lines of `source` stay above what is inserted above, or at the end of, a top-level class or table."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = [item for item in node.body if not isinstance(item, ast.FunctionDef)]
            assert where == "in"
            return fields[-1].end_lineno or 0
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
            return (node.end_lineno or 0) - 1 if where == "in" else node.lineno - 1
    raise AssertionError(f"CONTRIBUTING.md names {name}, which is not there")


def add_everything(tree: Path) -> list[tuple[str, str]]:
    """Insert every block of the page into the files below `tree`; returns (file, name) of each."""
    done = []
    for step in STEP.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        path = tree / step["file"]
        lines = path.read_text().splitlines(keepends=True)
        at = insertion_line("".join(lines), step["name"], step["where"])
        path.write_text("".join([*lines[:at], step["code"], *lines[at:]]))
        done.append((step["file"], step["name"]))
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what runs, with everything that the page adds."""
    folder = tmp_path_factory.mktemp("tree")
    for unit in UNITS:
        shutil.copytree(ROOT / unit, folder / unit, ignore=shutil.ignore_patterns("__pycache__"))
    for program in ("train.py", "test.py", "export.py"):
        shutil.copy(ROOT / program, folder)
    (folder / "data").symlink_to(ROOT / "data")
    assert len(add_everything(folder)) == 9
    return folder


@pytest.fixture(scope="module")
def facts(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/adding_run.py found in the copy: a run with all additions, resumed, tested, played and exported."""
    folder = tmp_path_factory.mktemp("run")
    with np.load(OPEN_HEAD) as file:
        arrays = {name: np.array(file[name]) for name in file.files}
    names = " ".join(map(str, arrays["exp_names"]))
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiub"}
    save_file(numbers, folder / "open_head.safetensors", {"exp_names": names})
    subject = write_subject(folder / "subject", 12, 64)
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run([sys.executable, str(ROOT / "tests" / "adding_run.py"), str(subject), str(folder)],
                            cwd=tree, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    assert found["tree"] == str(tree)
    return found


def test_attribute_network_and_loss_are_trained(facts: dict[str, Any]) -> None:
    assert "gain" in facts["terms"]
    assert facts["moved"]["attributes.gain"] > 1e-3
    assert facts["moved"]["networks.tint.last.weight"] > 1e-3


def test_an_attribute_follows_densification(facts: dict[str, Any]) -> None:
    assert facts["gaussians"][0] != facts["gaussians"][1]
    assert facts["gain_shape"] == [facts["gaussians"][1], 1]


def test_a_resumed_run_ends_as_one_that_went_on(facts: dict[str, Any]) -> None:
    assert facts["different_after_resume"] == []
    assert {"extensions.attributes.gain.exp_avg", "extensions.networks.tint.first.bias.step"} <= set(facts["saved"])


def test_the_player_draws_what_test_draws(facts: dict[str, Any]) -> None:
    assert facts["frames_tested"] == 3
    assert facts["player_against_test"] < 1e-5
    assert facts["without_additions"] > 1e-3  # they show in the picture


@pytest.mark.parametrize("half", ["half", "full"])
def test_the_fast_renderer_draws_them_too(facts: dict[str, Any], half: str) -> None:
    assert facts[f"fast_against_player_{half}"] < 0.1 * facts["without_additions"]


def test_no_export_leaves_them_out_silently(facts: dict[str, Any]) -> None:
    assert len(facts["exports"]) == 8
    for name, message in facts["exports"].items():
        assert f"--format {name}: the avatar learnt gain, tint besides its tables" in message


def test_the_head_model_is_loaded_by_its_ending(facts: dict[str, Any]) -> None:
    assert facts["head_file"].endswith("open_head.safetensors")


def test_a_program_without_them_says_what_it_does_not_know(facts: dict[str, Any]) -> None:
    from scene.checkpoint import CheckpointError, load_checkpoint

    with pytest.raises(CheckpointError, match="the avatar has the attribute 'gain', which this program does not know"):
        load_checkpoint(Path(facts["checkpoint"]))


def test_a_run_is_not_resumed_without_what_the_settings_ask_for(facts: dict[str, Any]) -> None:
    assert "learns nothing besides its tables, the settings ask for ('gain', 'tint')" in facts["mismatch"]
