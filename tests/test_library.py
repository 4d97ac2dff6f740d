"""`pip install .` and `import gaussian_blendshapes`: the whole program inside one package, and nothing beside it."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gaussian_blendshapes as gb
from tests.player_subject import FRAMES, SIZE, lively_player, write_run

ROOT = Path(__file__).resolve().parents[1]
FIVE_LINES = """
import gaussian_blendshapes as gb
player = gb.open_player({folder!r}, device="cpu")
picture = player.render(player.codes_of(0), player.cameras_of(0)).image
assert picture.shape == (1, 3, {size}, {size}) and float(picture.max()) > 0.1
print(gb.__file__)
"""
ONLY_THE_LIBRARY = """
import sys
foreign = sorted({{name.split(".")[0] for name in sys.modules}} & set({names!r}))
assert not foreign, foreign
from gaussian_blendshapes.commands import train, test, view, export, reenact, track
from gaussian_blendshapes.exporting import FORMATS, exporter_of
assert all(exporter_of(name).__module__.startswith("gaussian_blendshapes.") for name in FORMATS)
foreign = sorted({{name.split(".")[0] for name in sys.modules}} & set({names!r}))
assert not foreign, foreign
"""


TRACKING = """
import os
from pathlib import Path
from gaussian_blendshapes.arguments.track_settings import TrackSettings
from gaussian_blendshapes.commands import track
from gaussian_blendshapes.tracking.workers import Workers
means = track.prepare(TrackSettings(Path("a.mp4"), Path("data"), device="cpu"))
track.warm_up(means.device, trains=True)
print(means.head.name)
with Workers(1) as workers:
    workers.start([os.getpid])
    while not workers.done(60):
        pass
    assert workers.results[0] != os.getpid()
"""


def build_module():
    """setup.py, imported without running it."""
    spec = importlib.util.spec_from_file_location("library_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP = build_module()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), lively_player())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The library, installed without its dependencies into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
               "--target", str(target), str(ROOT)]
    environment = {**os.environ, "BUILD_CUDA": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def python(code, path, folder):
    """Run code in a process that finds `path` and the packages of this environment, but not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installation_puts_one_name_on_the_path(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"gaussian_blendshapes"}
    library = installed / "gaussian_blendshapes"
    assert {path.name for path in library.rglob("*.so")} >= {"_native_cpu.so"}
    assert not list((library / "data").rglob("*.pkl")) and (library / "data/open_head/open_head.npz").is_file()


def test_the_installed_library_draws_in_five_lines(installed, run_folder, tmp_path):
    code = FIVE_LINES.format(folder=str(run_folder), size=SIZE)
    names = set(SETUP.PACKAGES) | set(SETUP.NATIVE) | set(SETUP.COMMANDS) - {"test"}
    printed = python(code + ONLY_THE_LIBRARY.format(names=sorted(names)), installed, tmp_path)
    assert printed.startswith(str(installed))


def test_what_tracking_imports_late_and_elsewhere_is_in_the_library(installed, tmp_path):
    assert python(TRACKING, installed, tmp_path).strip() == "open_head"


def test_a_checkout_draws_in_the_same_lines(run_folder):
    printed = python(FIVE_LINES.format(folder=str(run_folder), size=SIZE), ROOT, ROOT)
    assert printed.startswith(str(ROOT))


def test_every_package_of_the_checkout_is_in_the_library():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"benchmarks", "tests", "gaussian_blendshapes"} <= set(SETUP.PACKAGES)
    programs = {path.stem for path in ROOT.glob("*.py")} - {"setup"}
    assert programs == set(SETUP.COMMANDS)


@pytest.mark.parametrize(("before", "after"), [
    ("from scene.avatar import Avatar\n", "from gaussian_blendshapes.scene.avatar import Avatar\n"),
    ("def f():\n    from train import train\n",
     "def f():\n    from gaussian_blendshapes.commands.train import train\n"),
    ("import blendshape_ops as ops\n", "import gaussian_blendshapes.blendshape_ops as ops\n"),
    ("import scene\n", "import gaussian_blendshapes.scene as scene\n"),
    ("import torch, utils.images as images\n", "import torch, gaussian_blendshapes.utils.images as images\n"),
    ("from . import scene\nfrom torch.utils import data\n", "from . import scene\nfrom torch.utils import data\n"),
    ("scene = 'from scene import x'\n", "scene = 'from scene import x'\n"),
])
def test_imports_of_ours_become_imports_from_the_library(before, after):
    assert SETUP.rewritten(before, "module.py") == after
    ast.parse(after)


def test_an_import_that_would_bind_another_name_stops_the_build():
    with pytest.raises(SystemExit, match=r"module\.py, line 1: import scene\.avatar: write from \.\.\. import"):
        SETUP.rewritten("import scene.avatar\n", "module.py")


# The functions -----------------------------------------------------------------------------------------------------


def test_train_takes_the_flags_of_the_command():
    settings = gb._settings_of({"source_path": Path("D"), "model_path": Path("O"), "iterations": 5, "device": "cpu",
                                "refine_tracking": False})
    assert (settings.optimization.iterations, settings.run.device) == (5, "cpu")
    assert settings.refinement.refine_tracking is False and settings.data.source_path == Path("D")


def test_a_setting_that_does_not_exist_is_an_error_that_suggests_one():
    with pytest.raises(ValueError, match="train: there is no setting 'iteration'; did you mean iterations"):
        gb.train("D", "O", iteration=5)


def test_what_is_given_beside_open_player(run_folder):
    player = gb.open_player(str(run_folder), device=torch.device("cpu"))
    assert isinstance(player, gb.Player) and len(player.clip) == FRAMES
    assert gb.load_head("open").name == "open_head"
    assert {"train", "open_player", "load_head", "rasterize"} <= set(gb.__all__)
    with pytest.raises(ValueError, match="no such folder"):
        gb.open_player(run_folder / "nowhere", device="cpu")
