"""The tables of the web page: what is packed is what the avatar is; nothing is written where it may not be."""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, SH, Binding, Differences

import export
from arguments.export_settings import ExportSettings
from exporting.web import export_web
from exporting.web.export import PAGE, page_data
from exporting.web.tables import MAX_BONES, live_pairs, pack_gaussians, pack_pairs, read_gaussians, read_pairs
from player import Player
from scene.avatar import Avatar
from tests.player_subject import EXPRESSIONS, lively_player, write_run
from utils.atomic import WriteError

HALF = 2**-11  # relative rounding of a half
TYPES = {"u32": "<u4", "u16": "<u2", "f16": "<f2", "f32": "<f4"}


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player()


@pytest.fixture(scope="module")
def page(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_web(player, ExportSettings(Path("run"), "web", tmp_path_factory.mktemp("web") / "page"))


def with_avatar(player: Player, avatar: Avatar) -> Player:
    return Player(player.head, avatar, player.clip, player.sh_degree, player.num_expressions, player.device, "changed")


def script_value(path: Path) -> Any:
    """The value of the one constant that a script defines."""
    found = re.fullmatch(r'"use strict";\nconst \w+ = (.*);\n', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_neutral_rows_keep_their_numbers(player: Player) -> None:
    avatar = player.avatar
    got = read_gaussians(pack_gaussians(avatar, live_pairs(avatar)))
    wanted, neutral = avatar.neutral.detach().numpy(), got["neutral"]
    for exact in (MEANS, LOG_SCALES, OPACITY):
        np.testing.assert_array_equal(neutral[:, exact], wanted[:, exact])
    for rounded in (QUATS, SH):
        # 3e-8: half of a half's smallest step
        np.testing.assert_allclose(neutral[:, rounded], wanted[:, rounded], rtol=HALF, atol=3e-8)
    np.testing.assert_array_equal(got["triangle"], avatar.binding.triangle.numpy())
    step = 0.51 / 65535  # half a 16-bit fraction, and float32
    np.testing.assert_allclose(got["weights"][:, :avatar.binding.weights.shape[1]], avatar.binding.weights, atol=step)
    bound = got["triangle"] >= 0
    np.testing.assert_allclose(got["barycentric"][bound], avatar.binding.barycentric[bound], atol=2 * step)


def test_pairs_keep_their_numbers_with_the_mask_multiplied_in(player: Player) -> None:
    d = player.avatar.differences
    pairs = live_pairs(player.avatar)
    values, expression = read_pairs(pack_pairs(pairs))
    wanted = (d.values * d.mask[:, None]).detach().numpy()[:, :59]
    assert len(wanted) == len(values) > 100
    np.testing.assert_array_equal(expression, d.expression.numpy())
    np.testing.assert_array_equal(pairs.offsets, d.offsets.numpy())
    # positions are packed times 1024, the others as they are: half of a half's smallest step
    np.testing.assert_allclose(values[:, MEANS], wanted[:, MEANS], rtol=HALF, atol=3e-8 / 1024)
    np.testing.assert_allclose(values[:, 3:11], wanted[:, 3:11], rtol=HALF, atol=3e-8)
    largest = np.abs(wanted[:, SH]).max(axis=1, keepdims=True)
    assert (np.abs(values[:, SH] - wanted[:, SH]) <= largest * 0.501 / 127).all()  # half a step of 8 bits a row


def test_an_avatar_of_the_packed_numbers_looks_the_same(player: Player) -> None:
    avatar = player.avatar
    pairs = live_pairs(avatar)
    gaussians = read_gaussians(pack_gaussians(avatar, pairs))
    values, expression = read_pairs(pack_pairs(pairs))
    d, b, pad = avatar.differences, avatar.binding, ((0, 0), (0, 1))
    differences = Differences(torch.from_numpy(np.pad(values, pad)), d.offsets, d.gaussian,
                              torch.from_numpy(expression).int(), torch.ones_like(d.mask))
    weights = torch.from_numpy(gaussians["weights"].astype(np.float32))[:, :b.weights.shape[1]].contiguous()
    barycentric = torch.from_numpy(gaussians["barycentric"].astype(np.float32))
    packed = Avatar(torch.from_numpy(np.pad(gaussians["neutral"], pad)), differences,
                    Binding(b.triangle, b.anchor, barycentric, weights), avatar.part, avatar.code_range)
    codes, cameras = player.codes_of([0, 3]), player.cameras_of([0, 3])
    wanted = player.render(codes, cameras).image
    got = with_avatar(player, packed).render(codes, cameras).image
    assert float(((got - wanted) ** 2).mean()) < 1e-7  # 70 dB; measured 7e-9


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
    head, (_, tables) = player.head, page_data(player)
    codes = np.random.default_rng(0).random(EXPRESSIONS)
    turns = player.rig.maps.view(EXPRESSIONS, -1, 16)[..., 12:].permute(1, 2, 0)
    for name, tensor, still in (("vertex", head.expression_dirs[..., :EXPRESSIONS], 1e-6), ("triangle", turns, 1e-4)):
        directions = tensor.double().numpy()
        start, column = tables[f"{name}Start"].astype(int), tables[f"{name}Column"]
        moved = np.zeros(directions.shape[:2])
        rows = np.repeat(np.arange(len(start) - 1), np.diff(start))
        np.add.at(moved, rows, codes[column][:, None] * tables[f"{name}Value"].astype(float))
        wanted = directions @ codes
        # what is left out is below `still` for each expression; the rest is rounded to halves
        np.testing.assert_allclose(moved, wanted, atol=EXPRESSIONS * (still + HALF * np.abs(directions).max()))
        assert np.abs(wanted).max() > 100 * still


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


def test_the_script_holds_the_tables(player: Player, page: Path) -> None:
    stored = script_value(page / "avatar.js")
    meta, tables = page_data(player)
    assert stored["meta"] == meta
    assert stored["tables"].keys() == tables.keys()
    for name, table in tables.items():
        encoded = stored["tables"][name]
        got = np.frombuffer(base64.b64decode(encoded["data"]), TYPES[encoded["type"]])
        np.testing.assert_array_equal(got, table.reshape(-1))


def test_every_shader_travels_along(page: Path) -> None:
    sources = {path.name: path.read_text() for path in PAGE.iterdir() if path.suffix in {".vert", ".frag"}}
    assert script_value(page / "shaders.js") == sources
    assert len(sources) == 5


def test_page_sources_are_not_too_long() -> None:
    lengths = {path.name: path.read_text().count("\n") for path in PAGE.iterdir()}
    assert len(lengths) > 10
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    wide = [path.name for path in PAGE.iterdir() for line in path.read_text().splitlines() if len(line) > 120]
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
    with pytest.raises(ValueError, match=r"web: the page has room for 8 bones, this avatar has 9"):
        pack_gaussians(avatar, live_pairs(avatar))


def test_gaussians_that_do_not_follow_the_mesh_are_refused(player: Player) -> None:
    b = player.avatar.binding
    anchor = b.anchor + 0.05
    strange = with_avatar(player, replace(player.avatar, binding=Binding(b.triangle, anchor, b.barycentric, b.weights)))
    with pytest.raises(ValueError, match=r"web: the Gaussians of changed do not follow the mesh of head open_head"):
        page_data(strange)


def test_the_command_writes_a_page(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", player)
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--format", "web", "-o", str(tmp_path / "page")])
    export.main()
    assert script_value(tmp_path / "page" / "avatar.js")["meta"]["gaussians"] == player.avatar.count


def test_a_missing_avatar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["export.py", str(tmp_path / "nobody"), "--format", "web", "-o", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(SystemExit, match=r"export\.py: .*nobody: no such folder; wanted the output folder"):
        export.main()
    assert not (tmp_path / "page").exists()
