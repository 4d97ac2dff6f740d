"""What a run tells: progress bar, training.csv and TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.trainer import StepResult, Trainer
from utils.atomic import write_text
from utils.metrics import psnr

CSV_NAME = "training.csv"
COLUMNS = ("iteration", "loss", "psnr", "gaussians", "sh_degree", "seconds")


class TrainingLog:
    """Progress bar, `training.csv` and TensorBoard of one run; a resumed run continues all three.

    Scalars are read from the device every `interval` iterations only, since each reading waits for it.
    `seconds` counts training time over all sittings of the run.
    """

    def __init__(self, folder: Path, first: int, last: int, interval: int, tensorboard: bool) -> None:
        self.interval, self.last = interval, last
        self._rows = _read_rows(folder / CSV_NAME, first)
        self._path = folder / CSV_NAME
        self._before = float(str(self._rows[-1]["seconds"])) if self._rows else 0.0
        self._start = time.perf_counter()
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1) if tensorboard else None
        self._bar = tqdm(total=last, initial=first, desc="Training", unit="it", dynamic_ncols=True)

    @property
    def seconds(self) -> float:
        """Training time so far, all sittings."""
        return self._before + time.perf_counter() - self._start

    def step(self, trainer: Trainer, result: StepResult) -> None:
        """Advance the bar; log the scalars where they are due."""
        self._bar.update(1)
        iteration = trainer.iteration
        if iteration % self.interval and iteration != self.last:
            return
        values = {name: float(term) for name, term in result.losses.items()}
        total = sum(values.values())
        if total != total:
            raise FloatingPointError(f"iteration {iteration}: the loss is not a number ({values})")
        target = trainer.target(result.rgba)
        quality = float(psnr(result.output.image.detach().clamp(0, 1), target).mean())
        count = trainer.avatar.count
        self._bar.set_postfix(loss=f"{total:.4f}", psnr=f"{quality:.2f}", gaussians=count, refresh=False)
        self._rows.append(dict(zip(COLUMNS, (iteration, f"{total:.6g}", f"{quality:.4f}", count, trainer.sh_degree,
                                             f"{self.seconds:.3f}"), strict=True)))
        if self._writer is not None:
            for name, value in {**values, "total": total}.items():
                self._writer.add_scalar(f"loss/{name}", value, iteration)
            self._writer.add_scalar("train/psnr", quality, iteration)
            for name, part in trainer.avatar.part_counts().items():
                self._writer.add_scalar(f"gaussians/{name.replace(' ', '_')}", part, iteration)

    def evaluation(self, iteration: int, frames: list[int], pictures: Tensor, targets: Tensor) -> None:
        """Scores and pictures of held-out frames: pictures, targets [n,3,H,W] in [0,1]."""
        quality = float(psnr(pictures, targets).mean())
        self._bar.write(f"Iteration {iteration}: held-out PSNR {quality:.2f} dB over {len(frames)} frames")
        if self._writer is None:
            return
        self._writer.add_scalar("test/psnr", quality, iteration)
        for frame, picture, target in zip(frames, pictures, targets, strict=True):
            self._writer.add_image(f"test/{frame:05d}", torch.cat([target, picture], dim=2), iteration)

    def say(self, message: str) -> None:
        """Print a line without disturbing the bar."""
        self._bar.write(message)

    def flush(self) -> None:
        """Write what was logged to disk; called with every checkpoint, so that --resume finds both in step."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _read_rows(path: Path, last: int) -> list[dict[str, object]]:
    """Rows of an earlier sitting up to iteration `last`; later ones will be logged again."""
    if last == 0 or not path.is_file():
        return []
    with open(path, newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if int(row["iteration"]) <= last]
