"""Builds the library `gaussian_blendshapes`: pip install .  (docs/library.md)

A checkout has packages with general names (`scene`, `utils`, `data` ...), programs (`train.py` ...) and the packages of
submodules/. An installation has them all inside `gaussian_blendshapes`: they are copied there, and their absolute
imports of each other are rewritten, so that they are ordinary modules of one package.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SUBMODULES = ROOT / "submodules"
LIBRARY = "gaussian_blendshapes"
COMMANDS = ("train", "test", "track", "view", "reenact", "export", "fleet", "live")
PACKAGES = ("arguments", "data", "evaluation", "exporting", "flame", "gaussian_renderer", "online", "orchestration",
            "player", "reenactment", "scene", "tracking", "training", "utils", "viewer")
NATIVE = {path.parent.name.replace("-", "_"): path.parent for path in sorted(SUBMODULES.glob("*/setup.py"))}
NEW_NAMES = {name: f"{LIBRARY}.{name}" for name in (*PACKAGES, *NATIVE)}
NEW_NAMES |= {name: f"{LIBRARY}.commands.{name}" for name in COMMANDS}
LEFT_OUT = {"FLAME", "mediapipe", "demo_subject", "__pycache__"}  # folders for files under other licences, caches
PACKED = {".py", ".npz", ".html", ".css", ".js", ".typed"}


def rewritten(source: str, name: str) -> str:
    """A module's text with its imports of ours turned into imports from the library.

    `import scene.x` without `as` would bind another name than before: it stops the build.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            top = node.module.split(".")[0]
            if top in NEW_NAMES:
                _replace(lines, node.lineno, rf"from(\s+){top}\b", rf"from\g<1>{NEW_NAMES[top]}", name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top not in NEW_NAMES:
                    continue
                if "." in alias.name and not alias.asname:
                    where = f"{name}, line {node.lineno}"
                    raise SystemExit(f"{where}: import {alias.name}: write from ... import, or ... as")
                binding = "" if alias.asname else f" as {top}"
                _replace(lines, node.lineno, rf"\b{re.escape(alias.name)}\b",
                         f"{NEW_NAMES[top]}{alias.name[len(top):]}{binding}", name)
    return "".join(lines)


def _replace(lines: list[str], number: int, pattern: str, new: str, name: str) -> None:
    line, count = re.subn(pattern, new, lines[number - 1], count=1)
    if not count:
        raise SystemExit(f"{name}, line {number}: an import that the build does not understand: {line.strip()}")
    lines[number - 1] = line


class BuildLibrary(build_py):
    """Puts the whole program into the library."""

    def run(self) -> None:
        super().run()
        library = Path(self.build_lib) / LIBRARY
        for package in PACKAGES:
            self._copy(ROOT / package, library / package)
        for package, folder in NATIVE.items():
            self._copy(folder / package, library / package)
            shutil.copyfile(SUBMODULES / "native" / "_native.py", library / package / "_native.py")
            self._build_native(folder, library)
        self._copy(ROOT / "web" / "src", library / "web" / "src")  # the exported page is made of it
        commands = library / "commands"
        commands.mkdir(exist_ok=True)
        (commands / "__init__.py").write_text('"""The programs: python -m gaussian_blendshapes.commands.train ..."""\n')
        for command in COMMANDS:
            shutil.copyfile(ROOT / f"{command}.py", commands / f"{command}.py")
        for path in library.rglob("*.py"):
            path.write_text(rewritten(path.read_text(encoding="utf-8"), str(path)), encoding="utf-8")

    def _copy(self, source: Path, target: Path) -> None:
        """The package's files of the kinds that belong to it: whatever else a user has put there stays behind."""
        for path in sorted(source.rglob("*")):
            place = path.relative_to(source)
            if path.is_file() and path.suffix in PACKED and not LEFT_OUT & set(place.parts):
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / place)

    def _build_native(self, folder: Path, library: Path) -> None:
        """Compile a submodule's libraries into its copy; its own setup.py knows sources and switches."""
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(library.resolve()),
                       "--build-temp", temporary]
            subprocess.run(command, cwd=folder, check=True)


class NativeDistribution(Distribution):
    """The libraries are compiled for this machine, so the wheel is no "any"."""

    def has_ext_modules(self) -> bool:
        return True


def main() -> None:
    """Run setuptools; name, version and dependencies stand in pyproject.toml."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack modules of an earlier build
    setup(packages=[LIBRARY], cmdclass={"build_py": BuildLibrary}, distclass=NativeDistribution)


if __name__ == "__main__":
    main()
