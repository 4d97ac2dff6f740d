"""The house rules that a program can check: directions of imports, lengths, device literals."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAX_FILE_LINES = 400
MAX_CLASS_LINES = 250
MAX_BODY_LINES = 40
MAX_LOOP_LINES = 120  # the training loop, once

ENTRY_POINTS = {"train", "test", "view", "track", "export", "reenact", "fleet", "live"}
# Packages of submodules/, by the name they are imported under. They import nothing of ours, not even each other.
SUBMODULES = {"blendshape_ops", "diff_gaussian_rasterization", "simple_knn"}

# Who may import whom; a unit may always import itself. Entry points may import every unit.
ALLOWED: dict[str, set[str]] = {
    "utils": {"blendshape_ops"},  # for lpips.py; it imports nothing of ours
    "arguments": {"utils"},
    "flame": {"utils"},
    "gaussian_renderer": {"utils"} | SUBMODULES,
    "scene": {"arguments", "flame", "gaussian_renderer", "utils"} | SUBMODULES,
    "training": {"arguments", "flame", "gaussian_renderer", "scene", "utils"} | SUBMODULES,
    "player": {"arguments", "flame", "gaussian_renderer", "scene", "utils"} | SUBMODULES,
    "evaluation": {"arguments", "flame", "gaussian_renderer", "scene", "utils"} | SUBMODULES,
    "tracking": {"arguments", "flame", "gaussian_renderer", "utils"} | SUBMODULES,
    "viewer": {"arguments", "evaluation", "flame", "gaussian_renderer", "player", "scene", "utils"} | SUBMODULES,
    "exporting": {"arguments", "flame", "player", "reenactment", "scene", "tracking", "utils"} | SUBMODULES,
    "reenactment": {"arguments", "flame", "gaussian_renderer", "player", "scene", "tracking", "utils"} | SUBMODULES,
    "online": {"arguments", "flame", "player", "reenactment", "scene", "tracking", "training", "utils", "viewer"}
              | SUBMODULES,
    "orchestration": {"arguments", "utils"},
    "data": {"flame", "gaussian_renderer", "utils"} | SUBMODULES,
    **{name: set() for name in SUBMODULES},
}
LIBRARY = "gaussian_blendshapes"  # what other programs import; like an entry point it may import every unit
OURS = set(ALLOWED) | ENTRY_POINTS | {LIBRARY}
# `scene` describes what is drawn, it does not draw: of the renderer it may use the types only.
RENDERER_FUNCTIONS = {"render", "rasterize"}

# Whoever uses these units decides where things run; everyone else takes the device from the tensors they are given.
MAY_NAME_DEVICES = {"tests", "benchmarks", "scripts", LIBRARY} | ENTRY_POINTS

SKIPPED_FOLDERS = {"build", "dist", "output", "device_carry", "node_modules", "__pycache__"}


def python_files() -> list[Path]:
    """All our Python files, relative to the root; hidden folders, products and builds left out."""
    relative = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(p for p in relative if not any(part in SKIPPED_FOLDERS or part[0] == "." for part in p.parts))


def native_files() -> list[Path]:
    """C++ and CUDA sources of the submodules, relative to the root."""
    suffixes = {".h", ".hpp", ".cuh", ".cpp", ".cu"}
    relative = (path.relative_to(ROOT) for path in (ROOT / "submodules").rglob("*") if path.suffix in suffixes)
    return sorted(p for p in relative if not any(part in SKIPPED_FOLDERS for part in p.parts))


def unit_of(path: Path) -> str:
    """The unit a file belongs to: its import name at the top level (`scene`, `train`, `simple_knn`, `tests`)."""
    if path.parts[0] == "submodules":
        return path.parts[2] if len(path.parts) > 3 else "submodules"
    return path.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str | None]]:
    """(line, top-level module, imported name or None) of every absolute import, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, node.module.split(".")[0], alias.name) for alias in node.names)


def import_violations(unit: str, tree: ast.AST) -> list[str]:
    """Imports that the table above forbids to this unit."""
    if unit not in ALLOWED:
        return []
    found = []
    for line, module, name in imports(tree):
        if module in OURS and module != unit and module not in ALLOWED[unit]:
            found.append(f"line {line}: {unit} must not import {module}")
        if unit == "scene" and module == "gaussian_renderer" and name in RENDERER_FUNCTIONS | {None}:
            found.append(f"line {line}: scene may import types from gaussian_renderer, not {name or 'the module'}")
    return found


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def length_violations(path: Path, tree: ast.AST) -> list[str]:
    """Functions and classes over the limits. One function of train.py may be the loop."""
    found, loops = [], 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_CLASS_LINES:
                found.append(f"line {node.lineno}: class {node.name} has {lines} lines, limit {MAX_CLASS_LINES}")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = body_lines(node)
            if MAX_BODY_LINES < lines <= MAX_LOOP_LINES and path == Path("train.py") and loops == 0:
                loops += 1
            elif lines > MAX_BODY_LINES:
                found.append(f"line {node.lineno}: body of {node.name} has {lines} lines, limit {MAX_BODY_LINES}")
    return found


def device_violations(tree: ast.AST) -> list[str]:
    """Calls that name an accelerator: x.cuda(), x.to("cuda"), torch.device("cuda:0"), f(device="cuda").

    Comparing a tensor's own device type with "cuda" and a backend called "cuda" are no calls of that kind and pass; so
    does "cpu", which a reader of files must be able to say.
    """
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = [k.value for k in node.keywords if k.arg in {"device", "map_location", "device_type"}]
        if name in {"to", "device", "set_default_device", "autocast"}:
            values += node.args
        named = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        if name == "cuda" or any(re.fullmatch(r"(cuda|mps|xpu)(:\d+)?", text) for text in named):
            found.append(f"line {node.lineno}: names a device")
    return found


def default_violations(tree: ast.AST) -> list[str]:
    """Parameters called device whose default is a string: def f(device="cuda")."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.arguments):
            continue
        positional = [*node.posonlyargs, *node.args]
        pairs = [*zip(reversed(positional), reversed(node.defaults), strict=False),
                 *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        found += [f"line {parameter.lineno}: a device as a default" for parameter, default in pairs
                  if parameter.arg.endswith("device") and isinstance(default, ast.Constant) and default.value]
    return found


FILES = python_files()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_python_file_keeps_the_house_rules(path: Path) -> None:
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    unit = unit_of(path)
    violations = import_violations(unit, tree) + length_violations(path, tree)
    if unit not in MAY_NAME_DEVICES:
        violations += device_violations(tree) + default_violations(tree)
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        violations.append(f"{lines} lines, limit {MAX_FILE_LINES}")
    assert not violations, f"{path}:\n  " + "\n  ".join(violations)


def test_native_files_are_not_too_long() -> None:
    lengths = {path: (ROOT / path).read_text().count("\n") for path in native_files()}
    assert {path: n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_native_sources_include_no_torch_header() -> None:
    including = [p for p in native_files() if re.search(r"#include\s*[<\"](torch|ATen|c10)/", (ROOT / p).read_text())]
    assert including == []


def test_no_source_cites_a_document_that_is_not_here() -> None:
    citing = [p for p in FILES if re.search(r"[Rr]eference sections? \d", (ROOT / p).read_text())]
    assert citing == []


@pytest.mark.parametrize("program", ["export", "fleet", "reenact", "track", "view"])
def test_what_does_not_train_does_not_import_training(program: str) -> None:
    assert "training" not in {module for _, module, _ in imports(ast.parse((ROOT / f"{program}.py").read_text()))}


def test_every_unit_has_a_place_in_the_table() -> None:
    free = {"tests", "benchmarks", "scripts", "setup", "submodules"}
    unknown = {unit_of(path) for path in FILES} - OURS - free
    assert unknown == set(), "say in ALLOWED what these may import"
    assert len(FILES) > 20, "the search for files is broken"


def test_import_table_has_no_cycle() -> None:
    seen: set[str] = set()
    for _ in ALLOWED:  # each round settles the units whose imports are all settled
        seen |= {unit for unit, allowed in ALLOWED.items() if allowed <= seen}
    assert seen == set(ALLOWED)


# The checks themselves: each must catch what it is for.


@pytest.mark.parametrize(("unit", "source"), [
    ("utils", "import scene.avatar"),
    ("utils", "def f():\n    from flame import Head"),
    ("flame", "from scene.frame import Camera"),
    ("gaussian_renderer", "import scene"),
    ("scene", "import train"),
    ("scene", "from gaussian_renderer import render"),
    ("scene", "import gaussian_renderer"),
    ("simple_knn", "from blendshape_ops import blend_pose_color"),
    ("blendshape_ops", "import utils"),
])
def test_forbidden_import_is_caught(unit: str, source: str) -> None:
    assert len(import_violations(unit, ast.parse(source))) == 1


@pytest.mark.parametrize(("unit", "source"), [
    ("scene", "from gaussian_renderer import Cameras, Splats\nfrom flame import Head\nimport utils.images, torch"),
    ("scene", "from .frame import Camera\nfrom scene.schema import Attribute"),
    ("train", "import scene, gaussian_renderer, flame"),
])
def test_permitted_import_passes(unit: str, source: str) -> None:
    assert import_violations(unit, ast.parse(source)) == []


@pytest.mark.parametrize("source", [
    "x.cuda()", "x.to('cuda')", "x.to('cuda:1')", "torch.device('cuda')", "torch.zeros(3, device='cuda')",
    "torch.load(p, map_location='cuda:0')",
])
def test_device_literal_is_caught(source: str) -> None:
    assert len(device_violations(ast.parse(source))) == 1


@pytest.mark.parametrize("source", [
    "x.to(y.device)", "torch.zeros(3, device=device)", "x.device.type == 'cuda'", "f(x, backend='cuda')",
    "torch.cuda.is_available()", "load(p, device='cpu')",
])
def test_device_taken_from_elsewhere_passes(source: str) -> None:
    assert device_violations(ast.parse(source)) == []


def test_device_default_is_caught() -> None:
    assert len(default_violations(ast.parse("def f(x, device='cuda', y=1): ..."))) == 1
    assert len(default_violations(ast.parse("def f(x, *, device='cpu'): ..."))) == 1
    assert default_violations(ast.parse("def f(x, device=None, backend='cuda'): ...")) == []


def function_of(lines: int) -> str:
    return 'def f():\n    """Docstrings\n    do not count."""\n' + "    x = 1\n" * lines


def test_long_function_is_caught() -> None:
    here = Path("scene/avatar.py")
    assert length_violations(here, ast.parse(function_of(MAX_BODY_LINES))) == []
    assert len(length_violations(here, ast.parse(function_of(MAX_BODY_LINES + 1)))) == 1


def test_one_loop_of_train_may_be_longer() -> None:
    here = Path("train.py")
    assert length_violations(here, ast.parse(function_of(MAX_LOOP_LINES))) == []
    assert len(length_violations(here, ast.parse(function_of(MAX_LOOP_LINES + 1)))) == 1
    assert len(length_violations(here, ast.parse(function_of(MAX_LOOP_LINES) * 2))) == 1


def test_long_class_is_caught() -> None:
    source = "class C:\n" + "    x = 1\n" * MAX_CLASS_LINES
    assert len(length_violations(Path("scene/avatar.py"), ast.parse(source))) == 1
