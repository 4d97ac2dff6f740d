"""Flags to settings and settings to `config.json`, for every entry point."""

from __future__ import annotations

import dataclasses
import difflib
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
from utils.plain_json import read_json

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


class Flag(typing.NamedTuple):
    """One setting as a flag: the type of its value, and its short names ("-s")."""

    hint: Any
    aliases: tuple[str, ...]

    @property
    def takes_path(self) -> bool:
        """Whether values name files or folders."""
        return Path in (self.hint, *typing.get_args(self.hint))


def flags_of(kind: type) -> dict[str, Flag]:
    """Every flag of a settings dataclass by its name, those of nested ones included (their prefix is omitted)."""
    flags: dict[str, Flag] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        hint, extras = hints[item.name], list[Any]()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *extras = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            flags |= flags_of(typing.cast(type, hint))
        else:
            aliases = [alias for extra in extras for alias in getattr(extra, "aliases", None) or ()]
            flags[item.name] = Flag(hint, tuple(aliases))
    return flags


def _check_flags(kind: type, arguments: Sequence[str], program: str) -> None:
    known = flags_of(kind).keys() | {"help"}
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

    Booleans take a value (`--use_HR True`), as in the reference's commands; a bare `--use_HR` means True. Texts may
    begin with a hyphen (`--train "--iterations 100"`).
    Raises SystemExit with a sentence for an unknown or retired flag or a malformed value.
    """
    given = _joined_texts(kind, sys.argv[1:] if arguments is None else arguments)
    _check_flags(kind, given, program)
    flags = flags_of(kind)
    booleans = {name for flag, (hint, aliases) in flags.items() if hint is bool for name in (flag, *aliases)}
    expanded: list[str] = []
    for argument, following in zip(given, [*given[1:], "--"], strict=True):
        expanded.append(argument)
        name = argument[2:].replace("-", "_") if argument.startswith("--") else argument
        if name in booleans and following.startswith("-"):
            expanded.append("True")
    return tyro.cli(kind, prog=program, args=expanded, config=(tyro.conf.FlagConversionOff,), use_underscores=True)


def _joined_texts(kind: type, arguments: Sequence[str]) -> list[str]:
    """The arguments with `--name TEXT` as one, `--name=TEXT`, where TEXT begins with a hyphen."""
    flags = flags_of(kind)
    texts = {f"--{name}" for name, flag in flags.items() if flag.hint is str}
    joined: list[str] = []
    for argument in arguments:
        if argument.startswith("-") and joined and joined[-1] in texts:
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined


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
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _from_plain(options[0], value, where)
    if origin in (typing.Union, types.UnionType):
        inner = [h for h in options if h is not type(None)]
        return None if value is None and type(None) in options else _from_plain(inner[0], value, where)
    if origin is typing.Literal:
        return _expected(value in [o for o in options if type(o) is type(value)], value, where, f"one of {options}")
    if origin is tuple:
        items = _expected(isinstance(value, list), value, where, "a list")
        hints = [options[0]] * len(items) if options[1:] == (...,) else options
        _expected(len(items) == len(hints), items, where, f"{len(hints)} entries")
        return tuple(_from_plain(h, item, where) for h, item in zip(hints, items, strict=True))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float:
        return float(_expected(number or value == "inf", value, where, "a number"))
    if hint is int:
        return _expected(number and isinstance(value, int), value, where, "a whole number")
    if hint is bool:
        return _expected(isinstance(value, bool), value, where, "true or false")
    if hint in (Path, str):
        return hint(_expected(isinstance(value, str) and "\0" not in value, value, where, "a text"))
    return value


def _expected(fits: bool, value: Any, where: str, wanted: str) -> Any:
    """`value` if it fits; ValueError saying where, what was wanted and what arrived."""
    if not fits:
        raise ValueError(f"{where}: wanted {wanted}, got {type(value).__name__} {str(value)[:60]!r}")
    return value


def _dataclass_from(kind: type[T], plain: Any, where: str) -> T:
    _expected(isinstance(plain, dict), plain, where, "settings in braces { }")
    hints = typing.get_type_hints(kind, include_extras=True)
    names = {f.name for f in dataclasses.fields(typing.cast(Any, kind))}
    needed = {f.name for f in dataclasses.fields(typing.cast(Any, kind))
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    unexpected, missing = sorted(name[:60] for name in set(plain) - names), sorted(needed - set(plain))
    if unexpected or missing:
        raise ValueError(f"{where}: settings differ from this version's: missing {missing}, "
                         f"unexpected {unexpected[:20]}")
    return kind(**{name: _from_plain(hints[name], plain[name], f"{where}: {name}") for name in names & set(plain)})


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
        plain = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    try:
        return _dataclass_from(kind, plain, str(path))
    except OverflowError as error:
        raise ValueError(f"{path}: a number is too large ({error})") from None
