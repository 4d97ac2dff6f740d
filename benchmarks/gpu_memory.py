"""How much memory a GPU has in use while another process runs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from types import TracebackType

INTERVAL = 0.5  # seconds between two looks
MIB = 1024.0


class GpuMemory:
    """While the block runs, watches the first GPU that CUDA_VISIBLE_DEVICES leaves: nothing else may run on it.

    most: GiB in use at the worst moment, CUDA context included; None where there is no GPU to ask.
    """

    def __init__(self) -> None:
        self.most: float | None = None
        self._gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> GpuMemory:
        if self._gpu and shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        command = ["nvidia-smi", "-i", self._gpu, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._done.wait(INTERVAL):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdigit():
                self.most = max(self.most or 0.0, int(answer) / MIB)
