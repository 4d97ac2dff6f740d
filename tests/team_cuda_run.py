"""Trainings that tests/test_distributed_cuda.py compares: python -m torch.distributed.run --nproc_per_node 2 -m
tests.team_cuda_run OUT SUBJECT; without torchrun, `run` is the one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from scene.checkpoint import avatar_tensors
from tests.subjects import nothing_waits
from training import corrections
from training.log import measured
from training.team import Team, join
from training.trainer import Trainer
from training.world import open_world
from utils.devices import resolve_device
from utils.processes import local_rank

STEPS, EPS = 100, 1e-2  # EPS as in tests/team_run.py: a gradient that is nothing but rounding makes no step
CASES = {"captured": True, "eager": False}


def run(subject: Path, team: Team, device: torch.device, capture: bool) -> dict[str, Tensor]:
    """What 100 steps, densification among them, end with; the last five may not wait for the GPU."""
    # Hundredths of the schedule: densification every 5 steps until 75, SH degrees every 5, refinement from 20 on.
    optimization = OptimizationSettings(batch_size=3, schedule_scale=5e-3, densify_grad_threshold=2e-3)
    settings = TrainSettings(DataSettings(subject, test_frames=3), RunSettings(Path("unused")),
                             ModelSettings(num_face_gaussians=2000, num_teeth_gaussians=50), optimization,
                             RefinementSettings())
    world = open_world(settings.data, settings.model, 0, device)
    trainer = Trainer(settings, world, device, capture=capture, team=team)
    trainer.optimizer.eps = EPS
    logged, counts = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corrections, "EPS", EPS)
        for _ in range(STEPS - 5):
            logged.append(measured(trainer, trainer.step())[1].sum())
            counts.append(trainer.avatar.count)
        if not capture:
            with nothing_waits():
                for _ in range(5):
                    trainer.step()
    trainer.exchange.require_same(trainer.avatar)
    captures = 0 if trainer.captured is None else trainer.captured.captures
    found = avatar_tensors(trainer.avatar) | {"logged": torch.stack(logged), "counts": torch.tensor(counts),
                                              "captures": torch.tensor(captures)}
    if trainer.captured is not None:
        trainer.captured.drop()  # a graph that holds collectives must be gone before the team leaves
    return {name: value.detach().cpu().clone().contiguous() for name, value in found.items()}


def main() -> None:
    out, subject = Path(sys.argv[1]), Path(sys.argv[2])
    team, device = join(), resolve_device("cuda", local_rank())
    for case, capture in CASES.items():
        save_file(run(subject, team, device, capture), out / f"{case} {team.rank}.safetensors")
    team.leave()


if __name__ == "__main__":
    main()
