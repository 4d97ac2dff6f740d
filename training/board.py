"""TensorBoard's files of a run, whose failure does not end the training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from blendshape_ops import to_bytes
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.images import ByteImage, encode_image


class Board:
    """Writes scalars and pictures until the disk refuses; then it says so once and writes no more.

    purge_step: TensorBoard ignores what an earlier sitting logged from there on. say: prints the warning.
    """

    def __init__(self, folder: Path, purge_step: int, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._writer: SummaryWriter | None = None
        self._hook = threading.excepthook
        threading.excepthook = self._thread_failed
        self._attempt(lambda: self._open(purge_step))
        self._encoder = ThreadPoolExecutor(1)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Add named numbers."""
        for name, value in values.items():
            self._attempt(partial(self._add, name, value, iteration))

    def picture(self, name: str, picture: Tensor, iteration: int) -> None:
        """Add a picture [3,H,W] in [0,1]; it is compressed in a thread."""
        pixels = to_bytes(picture[None])[0].cpu().numpy()
        self._encoder.submit(self._attempt, partial(self._add_picture, name, pixels, iteration))

    def flush(self) -> None:
        """Bring what was added to the disk."""
        self._encoder.submit(lambda: None).result()  # after all pictures before it
        self._attempt(lambda: self._use().flush())

    def close(self) -> None:
        """End the file; nothing may be added afterwards."""
        self._encoder.shutdown()
        self._attempt(lambda: self._use().close())
        self._writer = None
        threading.excepthook = self._hook

    def _open(self, purge_step: int) -> None:
        self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)

    def _add(self, name: str, value: float, iteration: int) -> None:
        self._use().add_scalar(name, value, iteration)

    def _add_picture(self, name: str, pixels: ByteImage, iteration: int) -> None:
        # SummaryWriter.add_image makes PNGs, which take a second to compress and to sum up, and the last checkpoint
        # would wait for that.
        height, width, channels = pixels.shape
        picture = Summary.Image(height=height, width=width, colorspace=channels,
                                encoded_image_string=encode_image(pixels, ".jpg"))
        self._use()._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), iteration)

    def _use(self) -> SummaryWriter:
        if self._writer is None:
            raise _Closed
        return self._writer

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except _Closed:
            pass
        except Exception as error:  # the library passes on whatever its writing thread met
            self._writer = None
            self._say(f"Warning: {self._folder}: TensorBoard's file could not be written ({error!s:.200}); it ends "
                      "here, training goes on")

    def _thread_failed(self, arguments: threading.ExceptHookArgs) -> None:
        """The writing thread's error is said by `_attempt`; a traceback on the terminal would say it again."""
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            self._hook(arguments)


class _Closed(Exception):
    """There is no writer any more."""
