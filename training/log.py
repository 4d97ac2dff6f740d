"""The log of a run: progress bar, training.csv and TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import RunSettings
from scene.avatar import Avatar
from training.board import Board
from training.trainer import StepResult, Trainer
from utils.atomic import WriteError, write_text
from utils.metrics import psnr

CSV_NAME = "training.csv"
COLUMNS = ("iteration", "loss", "psnr", "gaussians", "sh_degree", "seconds")


def measured(trainer: Trainer, result: StepResult) -> tuple[tuple[str, ...], Tensor]:
    """Names and values of a step's loss terms and its PSNR, over all frames of the batch. A collective."""
    quality = psnr(result.output.image.clamp(0, 1), trainer.target(result.rgba)).mean()
    values = torch.stack([*result.losses.values(), quality])
    return (*result.losses, "psnr"), trainer.exchange.average(values)


class SilentLog:
    """What a process has that others share the batch with and that does not write: its part in what is logged."""

    def __init__(self, last: int, interval: int) -> None:
        self.interval, self.last = interval, last

    def step(self, trainer: Trainer, result: StepResult) -> None:
        """Take part where scalars are due."""
        if self.due(trainer.iteration):
            measured(trainer, result)

    def due(self, iteration: int) -> bool:
        """Whether this iteration is logged."""
        return iteration % self.interval == 0 or iteration == self.last

    @property
    def seconds(self) -> float:
        """Training time so far: not measured here."""
        return 0.0

    def evaluation(self, iteration: int, frames: list[int], pictures: Tensor, targets: Tensor) -> None:
        """Nothing is reported."""

    def say(self, message: str) -> None:
        """Nothing is printed."""

    def flush(self) -> None:
        """Nothing is written."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        pass


class TrainingLog(SilentLog):
    """Progress bar, `training.csv` and TensorBoard of one run; a resumed run continues all three.

    Scalars are computed every `interval` iterations and read from the device one interval later, when they have long
    arrived, so that nothing waits. `seconds` counts training time over all sittings of the run.
    """

    def __init__(self, folder: Path, first: int, last: int, interval: int, tensorboard: bool) -> None:
        super().__init__(last, interval)
        self._rows = _read_rows(folder / CSV_NAME, first)
        self._path = folder / CSV_NAME
        self._before = float(str(self._rows[-1]["seconds"])) if self._rows else 0.0
        self._start = time.perf_counter()
        self._bar = tqdm(total=last, initial=first, desc="Training", unit="it", dynamic_ncols=True)
        self._board = Board(folder / "tensorboard", first + 1, self.say) if tensorboard else None
        self._csv_fails = False
        self._pending: _Pending | None = None
        self._parts: tuple[Tensor, dict[str, int]] | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, all sittings."""
        return self._before + time.perf_counter() - self._start

    def step(self, trainer: Trainer, result: StepResult) -> None:
        """Advance the bar; log the scalars where they are due."""
        self._bar.update(1)
        iteration = trainer.iteration
        if not self.due(iteration):
            return
        self._drain()
        self._pending = _Pending(iteration, *measured(trainer, result), self.seconds, trainer.sh_degree,
                                 self._part_counts(trainer.avatar))
        if iteration == self.last:
            self._drain()

    def _part_counts(self, avatar: Avatar) -> dict[str, int]:
        """Gaussians of each part, counted when rows change only, since counting waits for the device."""
        if self._parts is None or self._parts[0] is not avatar.part:
            self._parts = avatar.part, avatar.part_counts()
        return self._parts[1]

    def _drain(self) -> None:
        """Log what was computed at the last logged iteration."""
        if self._pending is None:
            return
        entry, self._pending = self._pending, None
        values = entry.values()
        quality = values.pop("psnr")
        total, count = sum(values.values()), sum(entry.parts.values())
        if total != total:
            raise FloatingPointError(f"iteration {entry.iteration}: the loss is not a number ({values})")
        self._bar.set_postfix(loss=f"{total:.4f}", psnr=f"{quality:.2f}", gaussians=count, refresh=False)
        self._rows.append(dict(zip(COLUMNS, (entry.iteration, f"{total:.6g}", f"{quality:.4f}", count, entry.sh_degree,
                                             f"{entry.seconds:.3f}"), strict=True)))
        if self._board is None:
            return
        losses = {f"loss/{name}": value for name, value in {**values, "total": total}.items()}
        parts = {f"gaussians/{name.replace(' ', '_')}": part for name, part in entry.parts.items()}
        self._board.scalars({**losses, "train/psnr": quality, **parts}, entry.iteration)

    def evaluation(self, iteration: int, frames: list[int], pictures: Tensor, targets: Tensor) -> None:
        """Scores and pictures of held-out frames: pictures, targets [n,3,H,W] in [0,1]."""
        quality = float(psnr(pictures, targets).mean())
        self._bar.write(f"Iteration {iteration}: held-out PSNR {quality:.2f} dB over {len(frames)} frames")
        if self._board is None:
            return
        self._board.scalars({"test/psnr": quality}, iteration)
        for frame, picture, target in zip(frames, pictures, targets, strict=True):
            self._board.picture(f"test/{frame:05d}", torch.cat([target, picture], dim=2), iteration)

    def say(self, message: str) -> None:
        """Print a line without disturbing the bar."""
        self._bar.write(message)

    def flush(self) -> None:
        """Write what was logged to disk; called with every checkpoint, so that --resume finds both in step.

        A disk that refuses costs the log, not the training: one warning, and the next call tries again.
        """
        self._drain()
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            write_text(self._path, text.getvalue())
            self._csv_fails = False
        except WriteError as error:
            if not self._csv_fails:
                self.say(f"Warning: {error}; training goes on")
            self._csv_fails = True
        if self._board is not None:
            self._board.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()


def open_log(run: RunSettings, first: int, last: int, leads: bool) -> SilentLog:
    """The log of a run that goes on after iteration `first` to `last`; of several processes the first one writes it."""
    if not leads:
        return SilentLog(last, run.log_interval)
    return TrainingLog(run.model_path, first, last, run.log_interval, run.tensorboard)


class _Pending:
    """Scalars on their way from the device, and what belongs to the row that they will make."""

    def __init__(self, iteration: int, names: tuple[str, ...], scalars: Tensor, seconds: float, sh_degree: int,
                 parts: dict[str, int]) -> None:
        self.iteration, self.seconds, self.sh_degree, self.parts = iteration, seconds, sh_degree, parts
        self._names = names
        self._arrived: torch.cuda.Event | None = None
        if scalars.is_cuda:
            self._scalars = torch.empty(scalars.shape, dtype=scalars.dtype, pin_memory=True)
            self._scalars.copy_(scalars, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(scalars.device))
        else:
            self._scalars = scalars

    def values(self) -> dict[str, float]:
        """The scalars by name; waits for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._scalars.tolist(), strict=True))


def _read_rows(path: Path, last: int) -> list[dict[str, object]]:
    """Rows of an earlier sitting up to iteration `last`; later ones will be logged again."""
    if last == 0 or not path.is_file():
        return []
    with open(path, newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if int(row["iteration"]) <= last]
