"""The browser's file and page: what is packed is what the avatar is; nothing is written where it may not be."""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from blendshape_ops import MEANS, SH, Binding, Differences
from hypothesis import given, settings
from hypothesis import strategies as st

import export
from arguments.export_settings import ExportSettings
from exporting.web import export_file, export_web
from exporting.web.avatar_file import LEAST_PSNR, packed_avatar
from exporting.web.coding import Section, quantized
from exporting.web.export import CORE, PAGE, as_script
from exporting.web.head import CONTROL_STEP, OFFSET_STEP, SHARE_STEP, TURN_STEP, head_section
from exporting.web.tables import MAX_BONES, REST, STEPS, base_section, live_pairs, order_of, rebuilt, rounded
from player import Player
from scene.avatar import Avatar
from scene.sway import CODES
from tests.player_subject import CPU, EXPRESSIONS, lively_player, write_run
from tests.web_file import read_file, read_section
from utils.atomic import WriteError


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player()


@pytest.fixture(scope="module")
def page(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_web(player, ExportSettings(Path("run"), "web", tmp_path_factory.mktemp("web") / "page"))


def with_avatar(player: Player, avatar: Avatar) -> Player:
    return Player(player.head, avatar, player.clip, player.sh_degree, player.num_expressions, player.device, "changed")


def scripted(folder: Path) -> bytes:
    """The file that a page's two scripts hold."""
    found = b""
    for part, name in enumerate(("avatar.js", "details.js")):
        text = re.fullmatch(rf'"use strict";\nreceiveAvatar\({part}, "(.*)"\);\n', (folder / name).read_text())
        assert text
        found += base64.b64decode(text.group(1))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2**31, 2**31 - 1), st.integers(-3, 3)), max_size=30), st.booleans())
def test_whole_numbers_come_back(rows: list[tuple[int, int]], delta: bool) -> None:
    table = np.array(rows, np.int64).reshape(-1, 2)
    section = Section()
    section.add_whole("numbers", table, delta)
    np.testing.assert_array_equal(read_section(section.specs, b"".join(section.data))["numbers"], table)


def test_single_precision_comes_back() -> None:
    values = np.array([0, -1.5, 3e-38, np.inf, 1 / 3], np.float32)
    section = Section()
    section.add_single("values", values)
    np.testing.assert_array_equal(read_section(section.specs, b"".join(section.data))["values"], values)


def test_rounding_is_to_the_nearest_and_small_numbers_become_zero_where_asked() -> None:
    np.testing.assert_array_equal(quantized(np.array([0.24, 0.26, -0.74, 0.9]), 0.5), [0, 1, -1, 2])
    np.testing.assert_array_equal(quantized(np.array([0.29, 0.31, -0.29, -0.31]), 0.5, dead=0.4), [0, 1, 0, -1])


def test_numbers_are_off_by_half_a_step_at_most(player: Player) -> None:
    order = order_of(player)
    coarse = np.arange(len(order)) % 4
    numbers = rounded(player, order, coarse, 2.0)
    steps = 2.0 * STEPS[None] * 2.0 ** coarse[:, None]
    neutral = player.avatar.neutral.detach().numpy()[order, :SH.stop]
    off = np.abs(numbers.neutral_values - neutral) / steps
    assert off[:, :REST.start].max() <= 0.501
    # along turned axes each number is off by 0.6, so all of a row together by the root of their number times that
    assert np.linalg.norm(off[:, REST], axis=1).max() <= 0.601 * np.sqrt(45)
    np.testing.assert_allclose(numbers.sheen_axes @ numbers.sheen_axes.T, np.eye(45), atol=1e-5)
    pairs = live_pairs(player.avatar)
    place = {n: i for i, n in enumerate(order)}
    stored = {(g, e): values for g, e, values in zip(numbers.gaussian, numbers.expression, numbers.pair_values,
                                                      strict=True)}
    assert len(stored) == len(numbers.pairs) > 100
    for gaussian, expression, values in zip(pairs.gaussian, pairs.expression, pairs.values, strict=True):
        if gaussian in place:
            row = place[gaussian]
            got = stored.get((row, expression), np.zeros(SH.stop))
            # in steps of the neutral row, of what the largest code of training makes of the difference
            off = np.linalg.norm((got - values) * numbers.reach[expression] / steps[row])
            assert off <= 0.601 * np.sqrt(SH.stop)


def test_pictures_of_the_file_are_those_of_the_avatar(player: Player) -> None:
    packed = packed_avatar(player)
    assert packed.psnr >= LEAST_PSNR
    meta, tables = read_file(packed.data)
    scale = meta["steps"][0] / STEPS[0]
    order = order_of(player)
    other = rebuilt(player, rounded(player, order, tables["coarse"][:, 0], scale))
    codes, cameras = player.codes_of([1, 2]), player.cameras_of([1, 2])
    error = float(((other.render(codes, cameras).image - player.render(codes, cameras).image) ** 2).mean())
    assert 0 < error < 10 ** (-(LEAST_PSNR - 1) / 10)


def test_the_file_holds_the_numbers(player: Player) -> None:
    packed = packed_avatar(player)
    meta, tables = read_file(packed.data)
    order = order_of(player)
    assert meta["gaussians"] == len(order) == len(tables["coarse"])
    numbers = rounded(player, order, tables["coarse"][:, 0], meta["steps"][0] / STEPS[0])
    np.testing.assert_array_equal(tables["triangle"][:, 0], player.avatar.binding.triangle.numpy()[order])
    np.testing.assert_allclose(tables["means"] * meta["steps"][:3], numbers.neutral_values[:, MEANS], atol=1e-9)
    np.testing.assert_array_equal(tables["shape"], numbers.neutral[:, MEANS.stop:])
    np.testing.assert_array_equal(tables["sheen"], numbers.sheen)
    np.testing.assert_array_equal(tables["pairAxes"], numbers.pair_axes.flatten())
    np.testing.assert_array_equal(tables["pairValues"], numbers.pairs)
    np.testing.assert_array_equal(np.repeat(np.arange(len(order)), tables["pairCount"][:, 0]), numbers.gaussian)
    np.testing.assert_allclose(tables["clipExpression"], player.clip.codes.expression, atol=2.6e-4)
    np.testing.assert_array_equal(tables["clipRotation"], player.clip.R.numpy().reshape(-1))


def test_the_first_picture_needs_the_bytes_before_the_sheen(player: Player) -> None:
    packed = packed_avatar(player)
    length = struct.unpack("<I", packed.data[8:12])[0]
    sections = json.loads(packed.data[12:12 + length])["sections"]
    assert [section["name"] for section in sections] == ["head", "clip", "base", "sheen", "pairs"]
    assert packed.first == 12 + length + sum(section["bytes"] for section in sections[:3])


@pytest.mark.parametrize("expressions", [EXPRESSIONS, 0])
def test_an_avatar_without_differences_has_a_file(player: Player, expressions: int) -> None:
    none = Differences.from_mask(torch.zeros(player.avatar.count, expressions))
    sway = player.avatar.sway
    assert sway is not None
    fewer = replace(sway, unit=sway.unit[:expressions], values=sway.values.detach()[:CODES + expressions])
    avatar = replace(player.avatar, differences=none, code_range=player.avatar.code_range[:, :expressions], sway=fewer)
    packed = packed_avatar(Player(player.head, avatar, player.clip, 3, expressions, CPU, "plain"))
    meta, tables = read_file(packed.data)
    assert meta["pairs"] == len(tables["pairValues"]) == 0 and meta["driven"] == expressions
    assert packed.psnr >= LEAST_PSNR


def test_gaussians_that_nobody_sees_are_left_out(player: Player) -> None:
    neutral = player.avatar.neutral.detach().clone()
    neutral[:50, 10] = -30
    assert set(order_of(with_avatar(player, replace(player.avatar, neutral=neutral)))).isdisjoint(range(50))


def test_pairs_that_training_never_drove_are_left_out(player: Player) -> None:
    code_range = player.avatar.code_range.clone()
    code_range[:, 3] = 0
    avatar = replace(player.avatar, code_range=code_range)
    pairs, full = live_pairs(avatar), player.avatar.differences
    gone = full.expression.numpy() == 3
    assert gone.any()
    np.testing.assert_array_equal(pairs.expression, full.expression.numpy()[~gone])
    counts = np.bincount(full.gaussian.numpy()[~gone], minlength=avatar.count)
    np.testing.assert_array_equal(np.diff(pairs.offsets), counts)


def test_mesh_tables_move_the_mesh_as_the_head_does(player: Player) -> None:
    head, section = player.head, head_section(player)
    tables = read_section(section.specs, b"".join(section.data))
    codes = np.random.default_rng(0).random(EXPRESSIONS)
    turns = player.rig.maps.view(EXPRESSIONS, -1, 16)[..., 12:].permute(1, 2, 0)
    places = head.expression_dirs[..., :EXPRESSIONS]
    for name, tensor, step in (("vertex", places, OFFSET_STEP), ("turn", turns, TURN_STEP)):
        directions = tensor.double().numpy()
        column = tables[f"{name}Column"][:, 0]
        moved = np.zeros(directions.shape[:2])
        rows = np.repeat(np.arange(len(moved)), tables[f"{name}Count"][:, 0])
        np.add.at(moved, rows, codes[column][:, None] * tables[f"{name}Value"])
        wanted = directions @ codes[:directions.shape[2]]
        np.testing.assert_allclose(moved, wanted, atol=len(codes) * step / 2)  # half a step for each code
        assert np.abs(wanted).max() > 100 * step


def test_sway_tables_displace_the_mesh_as_the_sway_does(player: Player) -> None:
    sway, section = player.avatar.sway, head_section(player)
    assert sway is not None
    tables = read_section(section.specs, b"".join(section.data))
    codes = np.random.default_rng(0).random(CODES + EXPRESSIONS)
    control = np.tensordot(codes, tables["swayControl"].reshape(len(codes), -1, 3), 1)
    moved = np.zeros((len(sway.share), 3))
    rows = np.repeat(np.arange(len(moved)), tables["swayCount"][:, 0])
    np.add.at(moved, rows, tables["swayValue"] * control[tables["swayColumn"][:, 0]])
    wanted = np.tensordot(sway.share, np.tensordot(codes, sway.control.detach(), 1), 1)
    # Half a step of control points for each code, half a step of each of six shares.
    error = len(codes) * CONTROL_STEP / 2 + 6 * SHARE_STEP / 2 * np.abs(control).max()
    np.testing.assert_allclose(moved, wanted, atol=error)
    assert np.abs(wanted).max() > 100 * CONTROL_STEP


def test_the_folder_holds_all_that_the_page_asks_for(page: Path) -> None:
    asked: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            asked.extend(value or "" for name, value in attrs if name in {"src", "href"})

    Links().feed((page / "index.html").read_text(encoding="utf-8"))
    files = [name for name in asked if not name.startswith("data:")]
    assert {path.name for path in page.iterdir()} == {"index.html", *files}
    for path in page.iterdir():
        named = re.search(r"(https?:)?//\w+\.\w.{,60}", path.read_text(encoding="utf-8"))
        assert not named, f"{path.name} names a network host: {named}"


def test_the_scripts_hold_the_file(player: Player, page: Path) -> None:
    assert scripted(page) == packed_avatar(player).data


def test_modules_of_the_package_are_scripts_of_the_page(page: Path) -> None:
    names = list[str]()
    for source in [*sorted(CORE.glob("*.js")), *sorted(PAGE.rglob("*.js"))]:
        text = (page / source.name).read_text() if source.parent != PAGE / "camera" else source.read_text()
        assert text.startswith('"use strict";\n')
        assert not re.search(r"^(import|export)\b", text, re.MULTILINE), source.name
        without_shaders = re.sub(r"`[^`]*`", "", text)
        names += re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", without_shaders, re.MULTILINE)
    assert len(names) > 60
    assert {name for name in names if names.count(name) > 1} == set()  # scripts share one space of names
    assert as_script('import { a } from "./a.js";\nexport async function f() {}\n') == (
        '"use strict";\nasync function f() {}\n')


def test_page_sources_are_not_too_long() -> None:
    sources = [path for folder in (PAGE, CORE.parent) for path in folder.rglob("*.*")]
    lengths = {path.name: path.read_text().count("\n") for path in sources}
    assert len(lengths) > 20
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    wide = [path.name for path in sources for line in path.read_text().splitlines() if len(line) > 120]
    assert wide == []


def test_a_folder_that_exists_is_left_alone(player: Player, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"--output: .*page exists already; .* delete it or name another"):
        export_web(player, ExportSettings(tmp_path, "web", tmp_path / "page"))
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["mine.txt"]


def test_a_failed_write_leaves_nothing(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match=r"page: could not be written: .*No space left"):
        export_web(player, ExportSettings(tmp_path, "web", tmp_path / "page"))
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_named(player: Player, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file/page: could not be written"):
        export_web(player, ExportSettings(tmp_path, "web", tmp_path / "file" / "page"))


def test_too_many_bones_are_refused(player: Player) -> None:
    b = player.avatar.binding
    weights = torch.zeros(player.avatar.count, MAX_BONES + 1)
    avatar = replace(player.avatar, binding=Binding(b.triangle, b.anchor, b.barycentric, weights))
    order = order_of(player)
    numbers = rounded(player, order, np.zeros(len(order), np.int64), 1.0)
    with pytest.raises(ValueError, match=r"web: the page has room for 8 bones, this avatar has 9"):
        base_section(with_avatar(player, avatar), numbers)


def test_gaussians_that_do_not_follow_the_mesh_are_refused(player: Player) -> None:
    b = player.avatar.binding
    anchor = b.anchor + 0.05
    strange = with_avatar(player, replace(player.avatar, binding=Binding(b.triangle, anchor, b.barycentric, b.weights)))
    with pytest.raises(ValueError, match=r"web: the Gaussians of changed do not follow the mesh of head open_head"):
        head_section(strange)


def test_the_command_writes_a_page(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", player)
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--format", "web", "-o", str(tmp_path / "page")])
    export.main()
    assert read_file(scripted(tmp_path / "page"))[0]["gaussians"] == len(order_of(player))


def test_the_command_writes_a_file(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", player)
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--format", "gbav"])
    export.main()
    assert read_file((run / "export" / "avatar.gbav").read_bytes())[0]["name"] == "run"


@pytest.mark.parametrize(("settings", "message"), [
    (ExportSettings(Path("run"), "gbav", Path("avatar.bin")), r"--output: wanted the name of a \.gbav"),
    (ExportSettings(Path("run"), "gbav", frame=1), "--frame"),
])
def test_wrong_flags_of_the_file_are_told(player: Player, settings: ExportSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_file(player, settings)


def test_a_missing_avatar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["export.py", str(tmp_path / "nobody"), "--format", "web", "-o", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(SystemExit, match=r"export\.py: .*nobody: no such folder; wanted the output folder"):
        export.main()
    assert not (tmp_path / "page").exists()
