"""Flags to settings and settings to `config.json`, for every entry point."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from utils.atomic import write_json

T = TypeVar("T")

CONFIG_NAME = "config.json"

# Flags of the reference and of 3DGS code that mean nothing here, each with the reason a user should read.
RETIRED = {
    "position_lr_delay_mult": "it never had an effect (the delay was 0 steps); leave it out",
    "update_consistency": "the consistency mask belongs to the sampled surface point and never changes; leave it out",
    "convert_SHs_python": "colour is always evaluated by the fused operator; leave it out",
    "compute_cov3D_python": "covariances are always computed by the rasterizer; leave it out",
    "opacity_reset_interval": "the method does not reset opacities; leave it out",
    "images": "the folder follows from the data mode (--use_HR reads images.HQ)",
    "eval": "test frames are always held out; choose them with --split and --test_frames",
    "data_device": "use --cache to say where decoded images are kept",
    "quiet": "redirect standard error to silence the progress bar",
    "debug": "inputs are checked always",
    "debug_from": "inputs are checked always",
    "detect_anomaly": "use torch's own environment for that",
    "ip": "the network viewer is not part of train.py",
    "port": "the network viewer is not part of train.py",
    "start_checkpoint": "use --resume, which takes the newest checkpoint of --model_path",
    "save_iterations": "use --checkpoint_interval",
    "checkpoint_iterations": "use --checkpoint_interval",
}


def _flag_names(kind: type) -> set[str]:
    """All flag names of a settings dataclass, nested ones included (their prefix is omitted)."""
    names: set[str] = set()
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            names |= _flag_names(typing.cast(type, hints[item.name]))
        else:
            names.add(item.name)
    return names


def _check_flags(kind: type, arguments: Sequence[str], program: str) -> None:
    known = _flag_names(kind) | {"help"}
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = argument[2:].split("=")[0].replace("-", "_")
        if name in known:
            continue
        if name in RETIRED:
            raise SystemExit(f"{program}: --{name} is retired: {RETIRED[name]}.")
        close = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f" Did you mean --{close[0]}?" if close else ""
        raise SystemExit(f"{program}: unknown flag --{name}.{hint} `python {program} --help` lists all flags.")


def parse_flags(kind: type[T], program: str, arguments: Sequence[str] | None = None) -> T:
    """Parse command-line flags into the settings dataclass `kind`.

    Booleans take a value (`--use_HR True`), as in the reference's commands; a bare `--use_HR` means True.
    Raises SystemExit with a sentence for an unknown or retired flag or a malformed value.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _check_flags(kind, given, program)
    booleans = _boolean_names(kind)
    expanded: list[str] = []
    for argument, following in zip(given, [*given[1:], "--"], strict=True):
        expanded.append(argument)
        name = argument[2:].replace("-", "_") if argument.startswith("--") else argument
        if name in booleans and following.startswith("-"):
            expanded.append("True")
    return tyro.cli(kind, prog=program, args=expanded, config=(tyro.conf.FlagConversionOff,), use_underscores=True)


def _boolean_names(kind: type) -> set[str]:
    """Names and short aliases of the boolean flags of a settings dataclass."""
    names: set[str] = set()
    hints = typing.get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(inner):
            names |= _boolean_names(typing.cast(type, inner))
        elif inner is bool:
            names.add(item.name)
            aliases = [a for extra in typing.get_args(hint)[1:] for a in getattr(extra, "aliases", None) or ()]
            names.update(aliases)
    return names


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf"  # JSON has no infinity
    return value


def absolute(settings: T) -> T:
    """The same settings with every path absolute, so that they mean the same from any folder.

    Head models that are files are paths, too, though `--head` also takes names.
    """
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(typing.cast(Any, settings)):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            changed[item.name] = absolute(value)
        elif isinstance(value, Path):
            changed[item.name] = Path(os.path.abspath(value))
        elif item.name == "head" and Path(value).suffix in (".npz", ".pkl"):
            changed[item.name] = os.path.abspath(value)
    return dataclasses.replace(typing.cast(Any, settings), **changed)


def _from_plain(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _dataclass_from(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _from_plain(options[0], value, where)
    if hint is Path:
        return Path(value)
    if origin is tuple:
        return tuple(value)
    if hint is float:
        return float(value)
    return value


def _dataclass_from(kind: type[T], plain: dict[str, Any], where: str) -> T:
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(typing.cast(Any, kind))}
    needed = {f.name for f in dataclasses.fields(typing.cast(Any, kind))
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    unexpected, missing = sorted(set(plain) - names), sorted(needed - set(plain))
    if unexpected or missing:
        raise ValueError(f"{where}: settings differ from this version's: missing {missing}, unexpected {unexpected}")
    return kind(**{name: _from_plain(hints[name], plain[name], where) for name in names & set(plain)})


def save_config(settings: Any, folder: Path) -> None:
    """Write the settings, their paths made absolute, as `config.json` in `folder`, atomically."""
    write_json(folder / CONFIG_NAME, _to_plain(absolute(settings)))


def load_config(kind: type[T], folder: Path) -> T:
    """Read back what `save_config` wrote; settings that came later than the file take their defaults.

    ValueError names the file and what is missing or unexpected.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{path}: not found; is {folder} the output folder of a training run?")
    try:
        plain = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    return _dataclass_from(kind, plain, str(path))
