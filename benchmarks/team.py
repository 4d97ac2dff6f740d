"""Training on several GPUs against one: python -m benchmarks.team -s SUBJECT [--gpus 1 2] [--batch_sizes 16 32]

Starts itself once for each number of GPUs, one after another on one machine. Rows as those of benchmarks.training, with
"G=2" for two GPUs, where a batch is the global one; and for each, what is exchanged in a step (bytes that leave a GPU,
by docs/scale.md) and how long that alone takes. `--profile` prints the kernels of rank 0, NCCL's among them.
The subject: `python -m data.demo --out SUBJECT --frames 200 --size 1024`.

How soon a run is as good as the default on one GPU: `python -m benchmarks.quality -s DATA --name NAME --processes 2
--steps 7`, and the same with `--batch_size 16 --iterations 3500`, beside `--processes 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path

import torch
from blendshape_ops import Factors

from arguments import TrainSettings
from benchmarks.results import Results
from benchmarks.training import parser_of, run, wait
from training.team import Team, join
from training.trainer import Trainer
from training.world import World
from utils.processes import local_rank

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 50


def random_factors(trainer: Trainer) -> Factors:
    """What a backward pass of this process's frames leaves."""
    frames, count = trainer.exchange.share.count, trainer.avatar.count
    like = trainer.avatar.neutral.detach()
    v = [torch.randn(frames, count, width).to(like) for width in (11, 3, 3)]
    beta = torch.rand(frames, trainer.world.rig.num_expressions).to(like)
    return Factors(v[0], v[1], torch.nn.functional.normalize(v[2], dim=2), beta, 3)


def bytes_sent(trainer: Trainer) -> float:
    """Bytes that leave a process in a step, with rings: the neutral gradient reduced, factors gathered."""
    size, share = trainer.exchange.team.size, trainer.exchange.share
    neutral = 2 * (size - 1) / size * trainer.avatar.neutral.numel() * 4
    rows = len(trainer.optimizer.differences.with_pairs()[1])
    return neutral + (size - 1) * share.largest * 4 * (rows * 17 + trainer.world.rig.num_expressions)


def measure_exchange(trainer: Trainer, results: Results) -> None:
    """Time what processes tell each other in a step, without the step."""
    own, gradient = random_factors(trainer), torch.zeros_like(trainer.avatar.neutral.detach())

    def exchange() -> None:
        trainer.exchange.gradients([gradient])
        trainer.optimizer.differences.factors.append(own)
        trainer.exchange.factors(trainer.optimizer)
        trainer.optimizer.zero_grad()

    for _ in range(5):
        exchange()
    wait(trainer.device)
    start = time.perf_counter()
    for _ in range(REPEATS):
        exchange()
    wait(trainer.device)
    milliseconds = 1e3 * (time.perf_counter() - start) / REPEATS
    setting = (f"G={trainer.exchange.team.size} B={trainer.exchange.batch} N={trainer.avatar.count} "
               f"P={len(trainer.avatar.differences.values)}")
    results.add("exchange_sent", setting, bytes_sent(trainer) / 1e6, "MB")
    results.add("exchange_alone", setting, milliseconds, "ms")


def measure_team(args: argparse.Namespace, team: Team) -> None:
    """This process's part in all measurements; rank 0 writes the rows."""
    args.results = args.results if team.leads else None

    def create(settings: TrainSettings, world: World, device: torch.device) -> Trainer:
        trainer = Trainer(settings, world, device, team=team)
        if team.size > 1:
            measure_exchange(trainer, Results(args.results, args.commit))
        return trainer

    run(args, create, f"G={team.size}{' refined' * args.refined}", args.refined)


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(batch_sizes=[16, 32], gaussians=[100_000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="or processes, on a CPU")
    parser.add_argument("--refined", action="store_true", help="steps that refine the tracking too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.worker:
        for count in args.gpus:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            subprocess.run([*launch, "-m", "benchmarks.team", *sys.argv[1:], "--worker"], cwd=ROOT, check=True)
        return
    if args.device == "auto" and torch.cuda.is_available():
        args.device = f"cuda:{local_rank()}"
    team = join()
    with contextlib.nullcontext() if team.leads else contextlib.redirect_stdout(io.StringIO()):
        measure_team(args, team)
    team.leave()


if __name__ == "__main__":
    main()
