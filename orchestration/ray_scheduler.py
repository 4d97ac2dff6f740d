"""Tasks as tasks of Ray: on this machine, or on a cluster that shares the output folder and this checkout."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from orchestration.worker import STOP_SECONDS, Outcome, Task, perform

POLL_SECONDS = 2.0
ON_GPU = ("train", "test")  # tracking and export use cores only, beside the training of others
HELD = 2  # tasks held for each one that can run, so that no core idles while the driver thinks


@dataclass(frozen=True)
class Needs:
    """What one task takes of a machine."""

    cores: int
    gpus: float


def _perform(task: Task, cores: int) -> Outcome:
    """In Ray's worker process. Its GPUs are those that Ray gave it, none where it gave none."""
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return perform(task, gpus, cores)


class RayScheduler:
    """A `Scheduler` on Ray. address: of a cluster; None starts Ray on this machine and ends it with `stop`.

    cores, gpus: of each task (gpus of training and testing only); fewer where no machine has as many.
    Raises ConnectionError when there is no cluster at the address.
    """

    def __init__(self, address: str | None, cores: int, gpus: float) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        checkout = str(Path(__file__).resolve().parents[1])
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING,
                 runtime_env={"env_vars": {"PYTHONPATH": checkout}})
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most_gpus = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
        self.cores = max(1, int(min(cores, max(machine.get("CPU", 1.0) for machine in machines))))
        self.gpus = min(gpus, most_gpus)
        total = ray.cluster_resources()
        on_gpu = f", {total.get('GPU', 0):.0f} GPUs of which a training takes {self.gpus:g}" if self.gpus else ""
        self.name = f"Ray, {len(machines)} machine(s), {total.get('CPU', 0):.0f} cores of which a task takes " \
                    f"{self.cores}{on_gpu}"
        self.room = HELD * max(1, int(total.get("CPU", 1) // self.cores))
        self._tasks: dict[Any, Task] = {}

    def needs(self, stage: str) -> Needs:
        return Needs(self.cores, self.gpus if stage in ON_GPU else 0.0)

    def submit(self, task: Task) -> None:
        needs = self.needs(task.stage)
        remote = ray.remote(_perform).options(
            num_cpus=needs.cores, num_gpus=needs.gpus, max_retries=0, name=f"{task.stage} {task.subject.name}",
            scheduling_strategy="SPREAD")  # a retry had better not meet the same full disk
        self._tasks[remote.remote(task, needs.cores)] = task

    def next(self) -> tuple[Task, Outcome] | None:
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=POLL_SECONDS)
        if not ready:
            return None
        task = self._tasks.pop(ready[0])
        try:
            return task, ray.get(ready[0])
        except ray.exceptions.RayError as error:  # the worker was killed, its machine died, or our own code is wrong
            return task, Outcome("failed", f"the worker died: {str(error).strip()[:1000]}")

    def running(self) -> list[Task]:
        return [task for task in self._tasks.values() if task.place.attempts.is_dir()]

    def stop(self) -> None:
        for reference in self._tasks:
            ray.cancel(reference, force=False)
        if self._tasks:
            ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=STOP_SECONDS)
        ray.shutdown()
