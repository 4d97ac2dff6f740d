"""Flags: the reference's commands parse unchanged, unknown and retired ones say so, settings survive config.json."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from arguments import TrainSettings, load_config, parse_flags, save_config
from arguments.cli import absolute

BASE = ["--source_path", "D", "--model_path", "O"]


def parse(*extra: str) -> TrainSettings:
    return parse_flags(TrainSettings, "train.py", [*BASE, *extra])


def test_reference_commands_parse() -> None:
    default = parse()
    assert default.data.source_path == Path("D")
    assert not default.data.use_nerfBS
    nerf = parse("--use_nerfBS", "True", "--alpha_loss", "1", "--lpips_loss", "0.05")
    assert nerf.data.use_nerfBS
    assert (nerf.optimization.alpha_loss, nerf.optimization.lpips_loss) == (1.0, 0.05)
    assert parse("--use_HR", "True").data.use_HR
    assert not parse("--use_HR", "False").data.use_HR


def test_short_flags_hyphens_and_bare_booleans() -> None:
    settings = parse_flags(TrainSettings, "train.py", ["-s", "D", "-m", "O", "-w", "--use-HR", "-r", "256"])
    assert settings.data.white_background
    assert settings.data.use_HR
    assert settings.data.resolution == 256


@pytest.mark.parametrize(("flag", "message"), [
    ("--update_consistency", "is retired"),
    ("--data_device", "--cache"),
    ("--iteratons", "Did you mean --iterations"),
    ("--nonsense_flag", "unknown flag --nonsense_flag"),
])
def test_unknown_and_retired_flags_say_so(flag: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        parse(flag, "1")


def test_malformed_value_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--iterations", "many")
    assert "many" in capsys.readouterr().err


def test_config_round_trip(tmp_path: Path) -> None:
    settings = parse("--test_iterations", "10", "20", "--lpips_weights", "W", "--split", "blocks")
    save_config(settings, tmp_path)
    assert load_config(TrainSettings, tmp_path) == absolute(settings)


def test_stored_paths_mean_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_config(parse("--head", "flame/generic_model.pkl", "--lpips_weights", "W"), Path("O"))
    monkeypatch.chdir("/")
    stored = load_config(TrainSettings, tmp_path / "O")
    assert stored.data.source_path == tmp_path / "D"
    assert stored.run.model_path == tmp_path / "O"
    assert stored.optimization.lpips_weights == tmp_path / "W"
    assert stored.data.head == str(tmp_path / "flame/generic_model.pkl")
    assert absolute(parse("--head", "open")).data.head == "open"


def test_config_errors_name_the_file_and_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: not found"):
        load_config(TrainSettings, tmp_path)
    save_config(parse(), tmp_path)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    plain["data"]["later_invention"] = 1
    del plain["data"]["source_path"]
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"missing \['source_path'\], unexpected \['later_invention'\]"):
        load_config(TrainSettings, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_config(TrainSettings, tmp_path)


@pytest.mark.parametrize(("group", "name", "value", "message"), [
    ("optimization", "iterations", "many", r"iterations: wanted a whole number, got str 'many'"),
    ("optimization", "iterations", 1.5, r"iterations: wanted a whole number, got float"),
    ("data", "source_path", 3, r"source_path: wanted a text, got int '3'"),
    ("data", "use_HR", "yes", r"use_HR: wanted true or false, got str"),
    (None, "data", [1], r"data: wanted settings in braces \{ \}, got list"),
])
def test_wrong_types_in_the_config_are_named(
        tmp_path: Path, group: str | None, name: str, value: object, message: str) -> None:
    save_config(parse(), tmp_path)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    (plain[group] if group else plain)[name] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_config(TrainSettings, tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "\udcff"])
def test_a_config_that_is_no_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json: (not valid JSON|wanted settings)"):
        load_config(TrainSettings, tmp_path)


def test_settings_that_came_later_than_the_config_take_their_defaults(tmp_path: Path) -> None:
    save_config(parse("--sh_degree", "1"), tmp_path)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    del plain["data"]["targets"], plain["model"]["mask_max"]
    path.write_text(json.dumps(plain))
    assert load_config(TrainSettings, tmp_path) == absolute(parse("--sh_degree", "1"))


def test_every_setting_is_documented_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    names = [item.name for group in typing.get_type_hints(TrainSettings).values() for item in dataclasses.fields(group)]
    assert {"source_path", "batch_size", "targets"} <= set(names)
    assert not [name for name in names if f"--{name}" not in text]
