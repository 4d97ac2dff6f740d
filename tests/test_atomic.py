"""Atomic writes: all or nothing, and errors that say which file and why."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import atomic


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def full_disk(_path: Path) -> None:
    _path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_round_trips_create_the_folder_and_leave_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    atomic.write_bytes(folder / "x.bin", b"\0\1")
    atomic.write_text(folder / "x.txt", "naïve\n")
    atomic.write_json(folder / "x.json", {"psnr": 30.5, "lpips": None})
    atomic.write_with(folder / "x.npz", lambda path: np.savez(path, a=np.arange(3)))
    assert (folder / "x.bin").read_bytes() == b"\0\1"
    assert (folder / "x.txt").read_bytes() == "naïve\n".encode()
    assert json.loads((folder / "x.json").read_text()) == {"psnr": 30.5, "lpips": None}
    assert np.load(folder / "x.npz")["a"].tolist() == [0, 1, 2]
    assert names(folder) == ["x.bin", "x.json", "x.npz", "x.txt"]


def test_full_disk_keeps_the_old_file_and_names_file_and_cause(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(atomic.WriteError, match=r"checkpoint\.safetensors.*No space left.*previous file is unchanged"):
        atomic.write_with(target, full_disk)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["checkpoint.safetensors"]


def test_full_disk_on_a_new_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(atomic.WriteError, match="new.bin.*No space left.*nothing was left"):
        atomic.write_with(tmp_path / "new.bin", full_disk)
    assert names(tmp_path) == []


def test_a_file_size_limit_behaves_like_a_full_disk(tmp_path: Path) -> None:
    """A real refusal by the operating system, not a simulated one: the child may write 4 KiB to a file."""
    resource = pytest.importorskip("resource")
    assert hasattr(resource, "RLIMIT_FSIZE")
    target = tmp_path / "state.bin"
    target.write_bytes(b"old")
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from utils import atomic\n"
        "atomic.write_bytes(sys.argv[1], bytes(1 << 20))\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script, str(target)], cwd=root, capture_output=True, text=True)
    assert done.returncode != 0
    assert "WriteError" in done.stderr and "state.bin: could not be written: File too large" in done.stderr
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["state.bin"]


def test_an_unrelated_error_passes_through_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(KeyError, match="mine"), atomic.replacing(target) as temporary:
        temporary.write_text("new")
        raise KeyError("mine")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(atomic.WriteError, match="x.txt.*No such file"):
        atomic.write_with(tmp_path / "x.txt", lambda path: None)


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(atomic.WriteError, match="taken: could not be written"):
        atomic.write_text(tmp_path / "taken", "x")
    assert (tmp_path / "taken").is_dir()


def test_a_file_where_a_folder_is_needed_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(atomic.WriteError, match="x.txt: could not be written"):
        atomic.write_text(tmp_path / "run" / "x.txt", "x")


@pytest.mark.parametrize("value, kind", [(float("nan"), ValueError), (float("inf"), ValueError), (object(), TypeError)])
def test_what_json_does_not_know_is_refused_before_writing(tmp_path: Path, value: object, kind: type) -> None:
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(kind, match=r"metrics\.json: cannot be written as JSON"):
        atomic.write_json(target, {"psnr": value})
    assert target.read_text() == "old"


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "video.mp4") as temporary:
        assert temporary.suffix == ".mp4" and temporary.parent == tmp_path
        temporary.write_bytes(b"x")


LIMITED = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "from pathlib import Path; folder = Path(sys.argv[1])\n"
    "limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
)


def run_limited(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `script` in a process whose files may grow to 4 KiB once it called limit()."""
    pytest.importorskip("resource")
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", LIMITED + script, str(folder)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_safetensors_on_a_full_disk_is_a_write_error_that_names_the_file(tmp_path: Path) -> None:
    done = run_limited("import torch; from safetensors.torch import save_file; from utils import atomic; limit()\n"
                       "try: atomic.write_with(folder / 'clip.safetensors', "
                       "lambda p: save_file({'a': torch.zeros(9999)}, p))\n"
                       "except atomic.WriteError as error: print(error)\n", tmp_path)
    assert "clip.safetensors: could not be written" in done.stdout, done.stderr
    assert names(tmp_path) == []


def test_tensorboard_on_a_full_disk_warns_once_and_goes_on(tmp_path: Path) -> None:
    done = run_limited("from training.board import Board; board = Board(folder, 0, print); limit()\n"
                       "for i in range(400): board.scalars({'a': i}, i)\n"
                       "board.flush(); board.scalars({'a': 1}, 400); board.close(); print('end')\n", tmp_path)
    assert done.stdout.count("Warning") == 1 and "training goes on" in done.stdout, done.stderr
    assert done.stdout.endswith("end\n") and "Traceback" not in done.stderr


def test_a_file_that_another_program_reads_has_the_usual_rights(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "x.safetensors") as temporary:
        temporary.write_bytes(b"x")
        temporary.chmod(0o600)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~atomic._UMASK


def test_an_error_about_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic.replacing(tmp_path / "x.txt"):
        (tmp_path / "other").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_a_terminated_program_leaves_no_temporary_file(tmp_path: Path) -> None:
    done = run_limited("import os; from utils import atomic; atomic.terminate_as_exit()\n"
                       "with atomic.replacing(folder / 'sweep.mp4') as temporary:\n"
                       "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGTERM)\n", tmp_path)
    assert done.returncode == 143 and names(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_that_has_ended_does_not_live_even_before_its_parent_notices() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert atomic.lives(process.pid) and atomic.lives(os.getpid())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays to be asked for
    assert not atomic.lives(process.pid)
    process.communicate()
    assert not atomic.lives(process.pid)
