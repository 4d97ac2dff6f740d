"""Trainings that tests/test_team.py compares: python -m torch.distributed.run --nproc_per_node 2 tests/team_run.py OUT
SUBJECT writes what each process ended with; the test calls `run` itself for one process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from scene.checkpoint import avatar_tensors, newest_checkpoint
from tests.extensions import ExtendedOptimization, add_both
from tests.refinement_scene import true_world
from training import calibration, corrections
from training.log import measured
from training.team import Team, TeamError, Vote, join
from training.trainer import Trainer
from training.world import open_world

CPU = torch.device("cpu")
STEPS, FEW, SAVED = 50, 20, 13
# Adam divides by the gradient's size plus this. Its own 1e-15 makes a whole step of a gradient that vanishes but for
# rounding, which sums in another order change; this one leaves such a gradient without effect.
EPS = 1e-2


def settings_of(case: str, subject: Path) -> TrainSettings:
    """Two thousandths of the schedule: densification ends, and unseen Gaussians go, with step 30."""
    model = ModelSettings(num_face_gaussians=300, num_teeth_gaussians=20, num_expressions=12)
    optimization = OptimizationSettings(iterations=STEPS, schedule_scale=2e-3, batch_size=3,
                                        densify_grad_threshold=2e-3)
    refine = RefinementSettings(refine_from_iter=5_000)
    if case == "extended":
        optimization = ExtendedOptimization(iterations=STEPS, schedule_scale=2e-3, batch_size=2,
                                            densify_grad_threshold=2e-3)
    if case == "without differences":
        model, refine = replace(model, blendshapes=False), RefinementSettings(refine_tracking=False)
        optimization = replace(optimization, isotropy_loss=0.1)
    data = DataSettings(subject, test_frames=3, cache="stream")
    return TrainSettings(data, RunSettings(Path("unused")), model, optimization, refine)


CASES = ("subject", "extended", "without differences")


def trainer_of(case: str, subject: Path, team: Team) -> Trainer:
    """A trainer that has not begun, whose optimizers all divide by `EPS` and more."""
    settings = settings_of(case, subject)
    world = open_world(settings.data, settings.model, 0, CPU) if case == "subject" else true_world()
    return with_eps(Trainer(settings, world, CPU, team=team))


def with_eps(trainer: Trainer) -> Trainer:
    trainer.optimizer.eps = trainer.extra_optimizer.eps = EPS
    return trainer


def run(case: str, subject: Path, team: Team, folder: Path | None = None) -> dict[str, Tensor]:
    """Everything that the training of a case ends with, and its logged losses.

    folder: the run is saved there between two densifications, and goes on with a new trainer that has read that.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corrections, "EPS", EPS)
        patch.setattr(calibration, "LEAST_FRAMES", calibration.BLOCKS)
        if case == "extended":
            add_both(patch)
        trainer = trainer_of(case, subject, team)
        logged, counts = [], []
        for step in range(1, 1 + (STEPS if case == "subject" else FEW)):
            result = trainer.step()
            logged.append(measured(trainer, result)[1])
            counts.append(trainer.avatar.count)
            if folder and step == SAVED:
                trainer.save(folder / "checkpoints", 0)
                team.tell("saved")
                trainer = trainer_of(case, subject, team)
                trainer.restore(newest_checkpoint(folder))
                with_eps(trainer)
        trainer.calibrate()
        stats = trainer.exchange.stats(trainer.stats)
    found = avatar_tensors(trainer.avatar) | {"logged": torch.stack([row.sum() for row in logged])}
    found |= {"counts": torch.tensor(counts), "grad_sum": stats.grad_sum}
    found |= {f"optimizer.{name}": value for name, value in trainer.optimizer.state_dict().items()}
    found |= {f"extra.{name}": value for name, value in trainer.extra_optimizer.state_dict().items()}
    if trainer.refinement is not None:
        found |= {f"refinement.{name}": value for name, value in trainer.refinement.state_dict().items()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def outcome(team: Team, action: Callable[[], None]) -> str:
    """What a process hears of an action that all of them do together."""
    try:
        with team.together():
            action()
    except TeamError as error:
        return str(error)
    return "fine"


def fail_if(condition: bool) -> None:
    if condition:
        raise ValueError("bad file")


def talk(team: Team) -> dict[str, object]:
    """What the methods of a team say in this process."""
    vote = Vote(team)
    said: dict[str, object] = {
        "sum": team.sum(torch.tensor([1.0 + team.rank])).tolist(),
        "largest": team.largest(torch.tensor([-1.0 * team.rank])).tolist(),
        "gather": team.gather(torch.tensor([[team.rank, 7]])).tolist(),
        "vote": [vote.cast(2 * (team.rank == 1 and step == 2)) for step in range(5)],
        "all fine": outcome(team, lambda: fail_if(False)),
        "one fails": outcome(team, lambda: fail_if(team.rank == 1)),
        "all fail": outcome(team, lambda: fail_if(True)),
        "share": [str(team.share(5).own), team.share(5).weight, team.share(5).largest],
        "first": team.one_first(lambda: team.rank),
    }
    try:
        team.require_equal("the answer", 42 + team.rank)
    except TeamError as error:
        said["unequal"] = str(error)
    return said


def main() -> None:
    out, subject = Path(sys.argv[1]), Path(sys.argv[2])
    team = join()
    vote = Vote(team)  # outlives the group, as one in the frame of an error does
    vote.cast(0)
    (out / f"talk{team.rank}.json").write_text(json.dumps(talk(team)))
    for case in CASES:
        save_file(run(case, subject, team, out if case == "subject" else None), out / f"{case} {team.rank}.safetensors")
    team.leave()
    tasks = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    (out / f"threads{team.rank}.json").write_text(json.dumps(tasks))


if __name__ == "__main__":
    main()
