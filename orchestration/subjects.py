"""The list of subjects: a folder of videos or data sets, or a table (.csv, .yaml) with flags for each."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from arguments.export_settings import Format
from arguments.fleet_settings import FleetSettings
from orchestration.flags import Flags, checked, flags_from_cells, flags_from_text
from orchestration.stages import STAGES
from utils.images import IMAGE_SUFFIXES

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"}
TABLE_SUFFIXES = {".json", ".npz", ".npy", ".frame"}  # of files beside the pictures of a data set
DATA_FOLDERS = {"checkpoint", "images", "images.HQ", "cameras"}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LARGEST_TABLE = 256 << 20  # bytes; a million rows
OWN_COLUMNS = ("source", "name", "export")


@dataclass(frozen=True)
class Subject:
    """One person to make an avatar of. source: absolute. flags: by stage. formats: what to export to."""

    name: str
    source: Path
    is_video: bool
    flags: Mapping[str, Flags]
    formats: tuple[str, ...] = ()

    @property
    def stages(self) -> list[str]:
        """What has to be done, in order."""
        wanted = {"track": self.is_video, "train": True, "test": True, "export": bool(self.formats)}
        return [name for name in STAGES if wanted[name]]

    def wish(self, stage: str) -> dict[str, Any]:
        """What decides the stage's result besides the stages before it: what its record is compared with."""
        wish: dict[str, Any] = {"flags": {name: list(values) for name, values in self.flags[stage].items()}}
        if stage == self.stages[0]:
            wish["source"] = str(self.source)
        if stage == "export":
            wish["formats"] = list(self.formats)
        return wish


@dataclass(frozen=True)
class Row:
    """One entry of the list as it stands there; `where` names it in messages."""

    where: str
    source: Path
    name: str | None
    formats: tuple[str, ...] | None
    flags: dict[str, Flags]


def read_subjects(settings: FleetSettings) -> list[Subject]:
    """The subjects of the list, in its order, each with the flags of its row over those for all.

    Raises:
        FileNotFoundError: the list, or a source that it names, is not there.
        ValueError: naming the row, when a flag is unknown or its value malformed, a name is no safe folder name or
            occurs twice; or when the list is empty or no list.
    """
    here = Path.cwd()
    texts = {"track": settings.track, "train": settings.train, "test": settings.test}
    common: dict[str, Flags] = {name: {} for name in STAGES}
    for name, text in texts.items():
        try:
            common[name] = checked(STAGES[name], flags_from_text(STAGES[name], text, here))
        except ValueError as error:
            raise ValueError(f"--{name}: {error}") from None
    subjects: dict[str, tuple[Subject, str]] = {}
    for row in _rows(settings.subjects):
        try:
            subject = _subject(row, common, settings.export)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{row.where}: {error}") from None
        key = subject.name.casefold()  # there are file systems for which Anna is anna
        if key in subjects:
            raise ValueError(f"{row.where}: the name {subject.name!r} is already that of {subjects[key][1]}; give one "
                             "of them another in a column 'name'")
        subjects[key] = subject, row.where
    if not subjects:
        raise ValueError(f"{settings.subjects}: no video and no data set in it")
    return _chosen([subject for subject, _ in subjects.values()], settings.only)


def _chosen(subjects: list[Subject], only: Sequence[str]) -> list[Subject]:
    unknown = sorted(set(only) - {subject.name for subject in subjects})
    if unknown:
        raise ValueError(f"--only: no subject is named {', '.join(unknown[:5])}")
    return [subject for subject in subjects if not only or subject.name in only]


def _rows(path: Path) -> Iterator[Row]:
    path = path.absolute()
    if path.is_dir():
        return _rows_of_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; a folder of videos or data sets, or a .csv or .yaml "
                                "file is expected")
    if path.stat().st_size > LARGEST_TABLE:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; lists of at most {LARGEST_TABLE >> 20} MiB are read")
    readers = {".csv": _rows_of_csv, ".yaml": _rows_of_yaml, ".yml": _rows_of_yaml}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a folder, or a list that ends in {', '.join(readers)} expected")
    return readers[path.suffix.lower()](path)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text ({error})") from None


def _rows_of_folder(folder: Path) -> Iterator[Row]:
    if _is_data_set(folder) or _is_footage(folder):
        raise ValueError(f"{folder}: is itself one subject; name the folder that holds it")
    for entry in sorted(folder.iterdir()):
        if entry.name[0] != "." and (entry.is_dir() or entry.suffix.lower() in VIDEO_SUFFIXES):
            yield Row(str(entry), entry, None, None, {})


def _rows_of_csv(path: Path) -> Iterator[Row]:
    text = _text_of(path)
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=";" if ";" in first and "," not in first else ",")
    heads = [head.strip() for head in next(reader, [])]
    _check_columns(path, heads)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {reader.line_num}"
        if len(cells) > len(heads):
            raise ValueError(f"{where}: {len(cells)} cells, but the first line names {len(heads)} columns")
        named = {head: cell.split() if head not in ("source", "name") else [cell.strip()]
                 for head, cell in zip(heads, cells, strict=False) if cell.strip()}
        yield _row(where, path.parent, named)


def _check_columns(path: Path, heads: list[str]) -> None:
    twice = sorted({head for head in heads if heads.count(head) > 1})
    if "source" not in heads or twice or "" in heads:
        raise ValueError(f"{path}: the first line must name the columns, each once, one of them 'source'; got "
                         f"{', '.join(heads)[:200]!r}")
    try:
        flags_from_cells({head: ["0"] for head in heads if head not in OWN_COLUMNS}, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}, line 1: {error}") from None


def _rows_of_yaml(path: Path) -> Iterator[Row]:
    text = _text_of(path)
    try:
        entries = yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: a list of subjects ('- source: ...') expected, got {type(entries).__name__}")
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
            raise ValueError(f"{where}: names and values ('source: ...') expected, got {str(entry)[:60]!r}")
        cells = {key: _texts(value, f"{where}: {key}") for key, value in entry.items() if value is not None}
        for key in ("source", "name"):
            if key in cells and not isinstance(entry[key], str):
                raise ValueError(f"{where}: {key}: a text expected, got {entry[key]!r}; put it in quotes")
        yield _row(where, path.parent, cells)


class _StrictLoader(yaml.SafeLoader):
    """Plain values only, and no key twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(twice)} given twice")
        return super().construct_mapping(node, deep)


def _texts(value: Any, where: str) -> list[str]:
    """A plain value or a flat list of them as the words of a command line."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float, bool)) for item in values):
        raise ValueError(f"{where}: a text, a number, true, false or a list of them expected, got {str(value)[:60]!r}")
    return [str(item) for item in values]


def _row(where: str, base: Path, cells: Mapping[str, list[str]]) -> Row:
    """A row of a table. ValueError names it."""
    if not cells.get("source"):
        raise ValueError(f"{where}: source: missing (a video or a data set)")
    formats = tuple(cells["export"]) if "export" in cells else None
    try:
        unknown = sorted(set(formats or ()) - set(get_args(Format)))
        if unknown:
            raise ValueError(f"export: {', '.join(get_args(Format))} expected, got {', '.join(unknown)}")
        flags = flags_from_cells({key: cell for key, cell in cells.items() if key not in OWN_COLUMNS}, base)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Row(where, base / cells["source"][0], cells["name"][0] if "name" in cells else None, formats, flags)


def _subject(row: Row, common: Mapping[str, Flags], formats: tuple[str, ...]) -> Subject:
    if not row.source.exists():
        raise FileNotFoundError(f"{row.source}: no such video, folder of images or data set")
    is_video = row.source.is_file() or _is_footage(row.source)
    name = row.name if row.name is not None else _name_from(row.source)
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a name is made of letters a-z, digits, dots, hyphens and underscores, begins with "
                         "a letter or digit and has at most 100")
    flags = {}
    for stage in STAGES.values():
        if row.flags.get(stage.name) and stage.name == "track" and not is_video:
            raise ValueError(f"{row.source} is a data set, so that flags of track.py mean nothing: "
                             f"{', '.join(row.flags['track'])}")
        try:
            flags[stage.name] = checked(stage, {**common[stage.name], **row.flags.get(stage.name, {})})
        except ValueError as error:
            raise ValueError(f"{stage.program}: {error}") from None
    return Subject(name, row.source, is_video, flags, formats if row.formats is None else row.formats)


def _name_from(source: Path) -> str:
    """A safe folder name that looks like the source's."""
    stem = source.stem if source.is_file() else source.name
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]+", "_", stem))[:100] or "subject"


def _is_footage(folder: Path) -> bool:
    """Whether a folder holds pictures, and nothing that data sets have beside them (docs/data.md)."""
    entries = [entry for entry in folder.iterdir() if entry.name[0] != "."]
    has_pictures = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries)
    return has_pictures and not any(entry.is_dir() or entry.suffix in TABLE_SUFFIXES for entry in entries)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder that should hold subjects looks like one itself."""
    return any(entry.name in DATA_FOLDERS or entry.suffix in TABLE_SUFFIXES for entry in folder.iterdir())
