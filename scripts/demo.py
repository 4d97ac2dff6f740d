"""The whole road once, on a subject of our own making: generate, train with and without blendshapes, test, report.

    python scripts/demo.py [--out output/demo] [--lpips_weights FOLDER]

Steps that are finished are skipped and an interrupted training goes on where it was; a step whose command has changed
since is done again, and so are those after it. Everything lies in the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STOPPED = 130  # as shells report Ctrl-C

# Chosen so that the demo takes at most ten minutes on two cores. 2,000 pictures are seen instead of 48,000: positions
# and differences learn faster than by default, or the mouth would lag behind (docs/experiments.md). The subject's
# tracking is exact.
SUBJECT = ("--frames", "300", "--size", "256")
TRAINING = ("--split", "blocks", "--test_frames", "60", "--iterations", "2000", "--batch_size", "1",
            "--position_lr_init", "4e-4", "--basis_lr_decay", "1", "--difference_position_lr", "3.2e-7",
            "--refine_tracking", "False", "--num_face_gaussians", "12000", "--num_teeth_gaussians", "800",
            "--checkpoint_interval", "250")
TESTING = ("--lpips_every", "6", "--pictures", "selected")


@dataclass(frozen=True)
class Step:
    """One command of the demo and the files and folders that it makes; a training also says which run it makes."""

    name: str
    command: tuple[str, ...]
    products: tuple[Path, ...]
    trains: Path | None = None


def run_products(folder: Path) -> tuple[Path, ...]:
    """What train.py leaves in a run's folder."""
    return tuple(folder / name for name in ("config.json", "training.csv", "checkpoints", "tensorboard"))


def steps(out: Path, lpips_weights: Path | None) -> list[Step]:
    """The demo in order. The run with blendshapes is the output folder itself, the other one lies inside it."""
    data, plain = out / "data", out / "without_blendshapes"
    weights = ("--lpips_weights", str(lpips_weights)) if lpips_weights else ()
    train = ("train.py", "--source_path", str(data), *TRAINING, *weights)
    test = ("test.py", *TESTING, *weights)
    return [
        Step("generate the subject", ("-m", "data.demo", "--out", str(data), *SUBJECT), (data,)),
        Step("train with blendshapes", (*train, "--model_path", str(out)), run_products(out), trains=out),
        Step("train without blendshapes", (*train, "--model_path", str(plain), "--blendshapes", "False"),
             (plain,), trains=plain),
        Step("test without blendshapes", (*test, "--model_path", str(plain), "--video", "False", "--report", "False"),
             (plain / "metrics.json",)),
        Step("test with blendshapes, report", (*test, "--model_path", str(out), "--without_blendshapes", str(plain)),
             (out / "metrics.json", out / "report.html")),
    ]


def read_record(record: Path) -> dict[str, object] | None:
    """What is known of a step: its command and whether it ended well; None before it first began."""
    return json.loads(record.read_text()) if record.is_file() else None


def prepare(step: Step, record: Path) -> tuple[str, ...]:
    """The command to run now, after removing what an older command made; records that the step has begun."""
    begun = {"command": list(step.command), "finished": False}
    if step.trains and (step.trains / "checkpoints").is_dir() and read_record(record) == begun:
        return (*step.command, "--resume", "True")
    for path in step.products:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(begun))
    return step.command


def is_finished(step: Step, record: Path) -> bool:
    """Whether this very command ended well before and its products are still there."""
    ended = {"command": list(step.command), "finished": True}
    return read_record(record) == ended and all(path.exists() for path in step.products)


def call(command: list[str]) -> tuple[int, bool]:
    """Run a command to its end; its exit code, and whether Ctrl-C or a request to end (SIGTERM) came meanwhile.

    A first Ctrl-C reaches the command as well, and training then writes a checkpoint: it is given the time to.
    """
    asked: list[int] = []
    with subprocess.Popen(command) as process:

        def ask(number: int, _: object) -> None:
            asked.append(number)
            if number == signal.SIGTERM or len(asked) > 1:  # the terminal sends the first Ctrl-C to the command itself
                process.terminate()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code, bool(asked)


def goes_on(step: Step, code: int) -> str:
    """What the next `make demo` does after a step that was stopped, or ended well just then."""
    place = "the next step" if code == 0 else "its last checkpoint" if step.trains else "the start of this step"
    return f"`make demo` goes on from {place}"


def run_demo(out: Path, lpips_weights: Path | None) -> int:
    """Run all steps; returns the exit code of the first that fails, `STOPPED` when stopped by the user, else 0."""
    fresh = True  # nothing has been done in this call: finished steps may be skipped
    started = time.monotonic()
    plan = steps(out, lpips_weights)
    for number, step in enumerate(plan, 1):
        title, record = f"==> demo {number}/{len(plan)}: {step.name}", out / ".steps" / f"{number}.json"
        if fresh and is_finished(step, record):
            print(f"{title}: done before", flush=True)
            continue
        command = prepare(step, record)
        fresh = False
        print(f"{title}\n    python {shlex.join(command)}", flush=True)
        code, stopped = call([sys.executable, *command])
        if code == 0:
            record.write_text(json.dumps({"command": step.command, "finished": True}))
        if stopped:
            print(f"\n{title}: stopped by you, nothing is broken; {goes_on(step, code)}", flush=True)
            return STOPPED
        if code != 0:
            print(f"{title}: failed with exit code {code}; `make demo` goes on from here", file=sys.stderr)
            return code
    print(f"==> demo finished in {time.monotonic() - started:.0f} s. Open {out / 'report.html'}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/demo"), help="output folder, below the repository")
    parser.add_argument("--lpips_weights", type=Path, help="folder with LPIPS network weights, see test.py --help")
    flags = parser.parse_args()
    os.chdir(ROOT)
    return run_demo(flags.out, flags.lpips_weights)


if __name__ == "__main__":
    sys.exit(main())
