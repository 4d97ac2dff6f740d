"""The columns of the packed table and the structures of the C interface: declared once, repeated nowhere unchecked."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from types import ModuleType

import blendshape_ops
import diff_gaussian_rasterization
import pytest
from blendshape_ops import GEOMETRY, LOG_SCALES, MEANS, OPACITY, QUATS, SH, WIDTH, tables

from exporting import numpy_player
from exporting.web import tables as web_tables
from scene.schema import ATTRIBUTES

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {"means": MEANS, "quats": QUATS, "log_scales": LOG_SCALES, "opacity": OPACITY, "sh": SH}
PACKAGES = (blendshape_ops, diff_gaussian_rasterization)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_library_and_python_agree(package: ModuleType) -> None:
    assert package._native.disagreements(package._native.load("cpu")) == []


@pytest.mark.parametrize("name", ["BlendArgs.half_values", "BlendArgs", "ROW", "QUATS", "SSIM_CUDA_TILE"])
def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    native = blendshape_ops._native
    native.load.cache_clear()
    monkeypatch.setitem(native._MIRRORS, name, native._MIRRORS[name] + 8)
    message = (rf"was built from other sources than this Python \({name} is .* in the library, .* in Python; 1 such in "
               r"all\); build it again with: pip install .*submodules/blendshape-ops")
    try:
        with pytest.raises(native.NativeLibraryError, match=message):
            native.load("cpu")
    finally:
        native.load.cache_clear()


def test_a_library_without_a_layout_is_refused() -> None:
    found = blendshape_ops._native.disagreements(ctypes.CDLL(None))
    assert found == ["blendshape_ops_layout is not in the library"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_structure_is_mirrored_with_all_its_fields(package: ModuleType) -> None:
    """A field that mirrors.h leaves out would be found only where it moves others."""
    folder = {"blendshape_ops": "blendshape-ops"}.get(package.__name__, "diff-gaussian-rasterization")
    text = "".join(path.read_text() for path in (ROOT / "submodules" / folder / "include").glob("*.h"))
    listed = set(re.findall(r'structure<S>\("(\w+)"\)', text))
    mirrored = {name.split("<")[0] for name in package._native._MIRRORS if "." not in name and not name.isupper()}
    by_scalar = {"AdamScalars", "AdamTable"} & mirrored  # named by add_adam_table, once for each scalar
    assert listed | by_scalar == mirrored


def test_columns_follow_one_another_and_the_schema_covers_them() -> None:
    edges = [(part.start, part.stop) for part in COLUMNS.values()]
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert (GEOMETRY.start, GEOMETRY.stop) == (0, SH.start)
    assert WIDTH % 4 == 0 and SH.stop <= WIDTH
    assert [(row.columns.start, row.columns.stop) for row in ATTRIBUTES] == [
        *edges[:-1], (SH.start, SH.start + 3), (SH.start + 3, SH.stop)]


def test_the_loader_of_exported_avatars_knows_the_columns() -> None:
    own = numpy_player
    assert (own.MEANS, own.QUATS, own.LOG_SCALES) == (MEANS, QUATS, LOG_SCALES)
    assert (own.OPACITY, own.SH.start) == (OPACITY.start, SH.start)


def test_the_page_takes_differences_apart_in_their_columns() -> None:
    """addPair of POSE_FRAGMENT: which of the halves h0.x, h0.y, h1.x, ... make up each attribute."""
    body = re.search(r"void addPair.*?\n}", (ROOT / "web/src/core/shaders.js").read_text(), re.DOTALL)
    assert body is not None
    for field, name in (("mean", "means"), ("quat", "quats"), ("logScale", "log_scales"), ("logit", "opacity")):
        added = re.search(rf"row\.{field} \+= beta \* (.*);", body.group())
        assert added is not None
        halves = re.findall(r"h(\d)(?:\.([xy]))?", added.group(1))
        offsets = {"x": [0], "y": [1], "": [0, 1]}
        columns = [2 * int(number) + offset for number, part in halves for offset in offsets[part]]
        assert columns == list(range(WIDTH))[COLUMNS[name]], name


def test_the_reader_of_the_browsers_file_knows_the_columns() -> None:
    text = (ROOT / "web/src/core/assemble.js").read_text()
    named = re.search(r"const SH = (\d+), SHEEN = (\d+), COLUMNS = (\d+);", text)
    assert named is not None
    assert [int(number) for number in named.groups()] == [SH.start, web_tables.REST.start, SH.stop]


def test_no_python_repeats_the_width_of_a_row() -> None:
    folders = ("scene", "training", "player", "exporting", "submodules/blendshape-ops/blendshape_ops")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    repeated = [f"{path.name}: {line.strip()}" for path in sources for line in path.read_text().splitlines()
                if re.search(r"(?:new_empty|new_zeros|zeros|empty|shape)\b[^#]*\b60\b", line) and '"""' not in line]
    assert repeated == []
    assert tables.WIDTH == WIDTH == 60  # of files that exist; another width needs a new format version
