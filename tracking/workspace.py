"""Where a run keeps the results of its stages, so that it can be resumed and nothing half-done is ever seen."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tracking.footage import ByteImage
from utils.atomic import write_bytes, write_json

JOB, MARK = "job.json", "tracking.json"


class Shelf:
    """A folder in which stages leave their results; data: where the data set is put together before it is published."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data

    def file(self, name: str) -> Path:
        return self.folder / name


class Workspace(Shelf):
    """The hidden folder beside the data set that holds stage results until the data set is complete.

    job: what decides the results (footage, settings). resume: go on with what an interrupted run of the same job left;
    otherwise it is discarded.

    Raises:
        FileExistsError: `output` holds something, and neither may nor can be replaced.
        ValueError: `resume` with other settings than those of the interrupted run.
    """

    def __init__(self, output: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
        _check_output(output, overwrite)
        self.output = output
        folder = output.with_name(f".{output.name}.tracking")
        super().__init__(folder, folder / "data")
        if self.folder.exists():
            if resume:
                _check_job(self.folder / JOB, job)
            else:
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOB, job)

    def shelf(self, name: str, data: Path) -> Shelf:
        """A shelf of its own for one of several cameras."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Shelf(folder, data)

    def publish(self, keep: bool = False) -> None:
        """The complete data set takes its place, an older one goes, stage results are deleted unless kept."""
        old = self.output.with_name(f".{self.output.name}.{secrets.token_hex(4)}.old")
        if self.output.exists():
            os.replace(self.output, old)
        os.replace(self.data, self.output)
        shutil.rmtree(old, ignore_errors=True)
        if not keep:
            self.discard()

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class PictureStore:
    """Pictures 0 .. n-1 of a stage on disk; complete once `finish` was called, which survives an interruption.

    As plain arrays: each is written once and read several times, and to pack and unpack a PNG takes longer than all
    that is done with it. Not NumPy's files, whose headers are read by a parser of Python's that fails at times when
    several threads use it (CPython 3.11: "AST constructor recursion depth mismatch"). They are gone when the data set
    is complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done = folder / "complete"

    @property
    def complete(self) -> bool:
        return self._done.is_file()

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def write(self, index: int, image: ByteImage) -> None:
        # Whole or not there, should the program be killed. Not flushed one by one, as `utils.atomic` does: without the
        # mark at the end the whole stage is done again.
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(index)
        part = path.with_suffix(".part")
        save_file({"picture": np.ascontiguousarray(image)}, part)
        os.replace(part, path)

    @property
    def written(self) -> int:
        """How many pictures are there."""
        return sum(1 for _ in self.folder.glob("*.safetensors"))

    def finish(self) -> None:
        write_bytes(self._done, b"")

    def read(self, index: int) -> ByteImage:
        """As it was written: colours [H,W,3] or one channel [H,W]."""
        return np.asarray(load_file(self.path(index))["picture"], np.uint8)


def save_table(path: Path, table: dict[str, Any]) -> None:
    """Write what a stage has to say as JSON; NumPy numbers and arrays become plain ones."""
    write_json(path, plain(table))


def load_table(path: Path) -> dict[str, Any]:
    """Read back what `save_table` wrote. ValueError for anything else."""
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise ValueError(f"a JSON object expected, got {str(table)[:40]}")
    return table


def plain(value: Any) -> Any:
    """NumPy scalars and arrays, paths and tuples as JSON knows them; floats with 6 digits, None for NaN."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MARK).is_file():
        raise FileExistsError(f"{output}: exists and was not written by track.py; choose another --output, or remove "
                              "it yourself")
    if not overwrite:
        raise FileExistsError(f"{output}: holds a tracked data set; replace it with --overwrite True, or choose "
                              "another --output")


def _check_job(path: Path, job: dict[str, Any]) -> None:
    try:
        saved = load_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no readable record of an interrupted run ({error}); start anew without "
                         "--resume") from error
    differing = sorted(key for key in saved.keys() | job.keys() if saved.get(key) != job.get(key))
    if differing:
        raise ValueError(f"--resume: the interrupted run was started with other {', '.join(differing)}; give the same "
                         "flags again, or start anew without --resume")
