"""Flags of the programs, given as text or as cells of a table, in one canonical form that their own parser has seen."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from arguments import parse_flags
from arguments.cli import flags_of
from orchestration.stages import STAGES, Stage

Flags = dict[str, tuple[str, ...]]  # name of the flag -> its values; a bare boolean has the value True


def flags_from_text(stage: Stage, text: str, base: Path) -> Flags:
    """The flags in a text such as "-r 256 --iterations 100"; relative paths among them start at `base`.

    Raises ValueError for what is not a flag of the stage's program, or is set by fleet.py itself.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    names = _names_by_spelling(stage)
    flags: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in words:
        if not re.match(r"-+[a-zA-Z]", word):
            if values is None:
                raise ValueError(f"{text!r}: a flag of {stage.program} was expected, got {word!r}")
            values.append(word)
            continue
        spelling, equals, value = word.partition("=")
        spelling = spelling if spelling in names else "--" + spelling.lstrip("-").replace("-", "_")
        if spelling not in names:
            raise ValueError(unknown_flag(spelling.lstrip("-"), [stage]))
        values = flags.setdefault(names[spelling], [])
        values[:] = [value] if equals else []
    return {name: _canonical(stage, name, given, base) for name, given in flags.items()}


def flags_from_cells(cells: Mapping[str, Sequence[str]], base: Path) -> dict[str, Flags]:
    """Flags by stage of one row: keys are names of flags ("iterations"), or with the stage ("train.iterations").

    Raises ValueError for an unknown name, one that several programs have, and one that fleet.py sets itself.
    """
    by_stage: dict[str, Flags] = {name: {} for name in STAGES}
    for key, values in cells.items():
        stage, name = _owner(key.strip().lstrip("-").replace("-", "_"))
        by_stage[stage.name][name] = _canonical(stage, name, values, base)
    return by_stage


def checked(stage: Stage, flags: Flags) -> Flags:
    """The same flags, after the program's own parser has taken them. ValueError with what it said otherwise."""
    _parse(stage.name, tuple(flags.items()))
    return flags


def arguments_of(flags: Flags) -> list[str]:
    """As words of a command line."""
    return [word for name, values in flags.items() for word in _words(name, values)]


def _words(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]


def unknown_flag(name: str, stages: Sequence[Stage]) -> str:
    """What to say of a flag that nobody knows."""
    programs = ", ".join(stage.program for stage in stages)
    known = sorted({flag for stage in stages for flag in flags_of(stage.settings)})
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    return f"unknown flag {name!r} (of {programs}){f'; did you mean {close[0]}?' if close else ''}"


def _owner(key: str) -> tuple[Stage, str]:
    """The stage that a key of a row belongs to, and the flag's name."""
    prefix, _, name = key.rpartition(".")
    if prefix and prefix not in STAGES:
        raise ValueError(f"unknown stage in {key!r}: one of {', '.join(STAGES)} before the dot expected")
    candidates = [STAGES[prefix]] if prefix else list(STAGES.values())
    owners = [stage for stage in candidates if name in flags_of(stage.settings)]
    if not owners:
        raise ValueError(unknown_flag(key, candidates))
    if len(owners) > 1:
        free = [stage for stage in owners if name not in stage.reserved]
        choices = " or ".join(f"{stage.name}.{name}" for stage in free or owners)
        raise ValueError(f"{key!r} is a flag of {' and '.join(stage.program for stage in owners)}: write {choices}")
    return owners[0], name


def _canonical(stage: Stage, name: str, values: Sequence[str], base: Path) -> tuple[str, ...]:
    if name in stage.reserved:
        raise ValueError(f"{name!r}: fleet.py sets this flag of {stage.program} itself")
    flag = flags_of(stage.settings)[name]
    if flag.hint is bool and not values:
        return ("True",)
    if flag.takes_path or (name == "head" and any(Path(value).suffix in (".npz", ".pkl") for value in values)):
        return tuple(os.path.abspath(base / value) for value in values)
    return tuple(values)


@cache
def _names_by_spelling(stage: Stage) -> dict[str, str]:
    """Every way to write a flag of the stage's program -> the flag's name."""
    return {spelling: name for name, flag in flags_of(stage.settings).items()
            for spelling in (f"--{name}", *flag.aliases)}


@cache
def _parse(stage: str, flags: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    """Let the program's parser look at the flags. Many rows have the same, so each set is parsed once."""
    said, settings = io.StringIO(), STAGES[stage]
    words = [*settings.example, *arguments_of(dict(flags))]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse_flags(settings.settings, settings.program, words)
    except SystemExit as error:
        text = error.code if isinstance(error.code, str) else said.getvalue()
        lines = [line.strip(" │|") for line in text.splitlines()]
        words = [line for line in lines if re.search(r"\w", line) and "full helptext" not in line]
        raise ValueError(" ".join(" ".join(words).split())) from None
