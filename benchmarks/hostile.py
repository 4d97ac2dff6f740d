"""Gives damaged and malicious files to every reader and counts what happens.

    python -m benchmarks.hostile --mutations 1500

Each file is read in a process of its own with limits on time and memory, in which starting programs, opening
connections, and writing or removing files is recorded. Good are an error that names the file and the acceptance of a
file that is still readable. Exit code 1 if anything else happened. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from arguments import TrainSettings, load_config
from benchmarks.hostile_files import TENSORS, VALUES, WITNESS, mutated, pickled, torch_archive
from flame import Head, load_head
from flame.load import OPEN_HEAD
from player import open_player
from scene.checkpoint import CheckpointError
from scene.clip import save_clip
from scene.readers import open_source
from scene.writers import WRITERS
from tests.heads import random_head, write_flame_pickle
from tests.layout_sources import make_source
from tests.player_subject import lively_player, made_up_calibration, write_run
from tests.track_videos import moving_face, write_clip
from tests.tracker_folder import write_folder
from tracking.footage import Span
from tracking.video import open_footage
from utils.images import read_rgba
from utils.safe_pickle import load_flame_pickle, load_numpy_dict, load_torch_dict

SECONDS, MEMORY = 30, 1 << 30
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
             "os.remove", "os.rename", "ctypes.dlopen", "shutil.rmtree")
CLEAR = (ValueError, OSError, CheckpointError)

class Outcome(NamedTuple):
    kind: str
    detail: str
"""kind: accepted, clear, unclear, execution, crash, hang or memory."""


class Target(NamedTuple):
    """A good file, and what reads it."""

    name: str
    file: Path
    read: Callable[[], object]


def in_child(read: Callable[[], object], file: Path) -> Outcome:
    """Read in a forked process; the outcome, whatever becomes of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(read, file, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, status, _ = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Outcome("hang" if number == signal.SIGALRM else "crash", signal.Signals(number).name)
    return Outcome(**json.loads(said)) if said else Outcome("crash", f"exit status {status}")


def _child(read: Callable[[], object], file: Path, writer: int) -> None:
    signal.alarm(SECONDS)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    events: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        if watching and (writes or event in FORBIDDEN):
            events.append(f"{event} {arguments!s:.80}")

    sys.addaudithook(hook)
    try:
        read()
        outcome = Outcome("accepted", "")
    except BaseException as error:  # the kind of error is what is measured
        named = isinstance(error, CLEAR) and (file.name in str(error) or file.parent.name in str(error))
        outcome = Outcome("clear" if named else "unclear", f"{type(error).__name__}: {error!s:.300}")
    watching = False
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > MEMORY:
        outcome = Outcome("memory", f"{grown >> 20} MiB")
    if events or Path(WITNESS).exists():
        outcome = Outcome("execution", "; ".join(events) or WITNESS)
    os.write(writer, json.dumps(outcome._asdict()).encode())
    os._exit(0)


def targets(folder: Path) -> list[Target]:
    """Good files of every kind that is read, in `folder`."""
    run, cpu = folder / "run", torch.device("cpu")
    write_run(run, lively_player())
    save_clip(replace(lively_player().clip, calibration=made_up_calibration()), run)
    write_folder(folder / "data", 2, "insta")
    flame = write_flame_pickle(folder / "flame.pkl", load_head("open"))
    (folder / "head.npz").write_bytes(OPEN_HEAD.read_bytes())
    checkpoint = run / "checkpoints" / "iteration_00000001"
    data = folder / "data"
    picture, mesh = data / "images" / "00001.png", data / "canonical.obj"
    mesh.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")

    video = write_clip(folder / "clip.mp4", moving_face(6))

    def play() -> object:
        player = open_player(run, cpu)
        return player.render(player.codes_of(0), player.cameras_of(0))

    return [
        Target("record", data / "checkpoint" / "00001.frame", lambda: open_source(data)),
        Target("picture", picture, lambda: read_rgba(picture)),
        Target("video", video, lambda: sum(1 for _ in open_footage(video).pictures(Span()))),
        Target("mesh", mesh, lambda: open_source(data)),
        Target("avatar", checkpoint / "avatar.safetensors", play),
        Target("state", checkpoint / "state.json", play),
        Target("clip", run / "clip.safetensors", play),
        Target("settings", run / "config.json", lambda: load_config(TrainSettings, run)),
        Target("FLAME pickle", flame, lambda: load_head(flame)),
        Target("head", folder / "head.npz", lambda: load_head(folder / "head.npz")),
        *layout_targets(folder / "layouts"),
    ]


def layout_targets(folder: Path) -> list[Target]:
    """Files of other programs' layouts, each read by its reader and completed with a head model."""
    files = {"vhap": ("transforms_train.json", "flame_param/00001.npz"), "imavatar": ("flame_params.json",),
             "nersemble": ("camera_params.json",), "nerface": ("transforms_train.json",), "codes": ("codes.npz",),
             "insta_transforms": ("flame/exp/00001.txt", "meshes/00000.obj")}
    head = random_head()
    source = make_source(folder / "pictures", head, times=2, neck=False)
    found = []
    for layout, names in files.items():
        WRITERS[layout](folder / layout, source, head)
        read = partial(_complete, folder / layout, layout, head)
        found += [Target(f"{layout} {Path(name).name}", folder / layout / name, read) for name in names]
    return found


def _complete(folder: Path, layout: str, head: Head) -> object:
    return open_source(folder, layout).completed(head)


def mutate_all(found: list[Target], mutations: int, report: Callable[[str, Outcome], None]) -> Counter[str]:
    """Damage the files in turn, `mutations` times in all, seeded."""
    counts: Counter[str] = Counter()
    for number in range(mutations):
        target = found[number % len(found)]
        good = target.file.read_bytes()
        target.file.write_bytes(mutated(good, random.Random(f"{target.name}/{number}")))
        outcome = in_child(target.read, target.file)
        target.file.write_bytes(good)
        counts[outcome.kind] += 1
        report(f"{target.name} {number}", outcome)
    return counts


def attack_all(folder: Path, report: Callable[[str, Outcome], None]) -> Counter[str]:
    """Give each malicious pickle to each reader of pickles, bare and inside a torch archive."""
    counts: Counter[str] = Counter()
    for name, value in (VALUES | TENSORS).items():
        for kind, read, data in (
            ("flame", load_flame_pickle, pickled(value, "x")),
            ("numpy", load_numpy_dict, pickled(value, "x")),
            ("torch", load_torch_dict, torch_archive(pickled(value, "x"))),
            ("key", load_torch_dict, torch_archive(b"\x80\x02}" + value + b"K\x01s.")),
            ("unread", lambda path: load_torch_dict(path, keys=["y"]), torch_archive(pickled(value, "x"))),
            ("bomb", load_torch_dict, torch_archive(pickled(value, "x"), bytes(8 << 20))),
        ):
            path = folder / "attack.bin"
            path.write_bytes(data)
            outcome = in_child(lambda path=path, read=read: read(path), path)  # type: ignore[misc]
            counts[outcome.kind] += 1
            report(f"{name} ({kind})", outcome)
    return counts


def main() -> None:
    """Run both and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no other threads

    def report(name: str, outcome: Outcome) -> None:
        if outcome.kind not in ("accepted", "clear"):
            print(f"{name}: {outcome.kind}: {outcome.detail}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.chdir(folder)
        found = targets(folder)
        for target in found:
            target.read()  # good files are accepted; libraries are loaded once, here
        attacks, mutations = attack_all(folder, report), mutate_all(found, options.mutations, report)
    print(f"attacks: {len(VALUES | TENSORS)} techniques, {attacks.total()} files: {dict(attacks)}")
    print(f"mutations: {mutations.total()} files: {dict(mutations)}")
    sys.exit(int(bool((attacks + mutations).keys() - {"accepted", "clear"})))


if __name__ == "__main__":
    main()
