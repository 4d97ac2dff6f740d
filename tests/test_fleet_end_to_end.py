"""fleet.py as a user calls it, with the programs themselves: a data set, a broken video, a kill in the middle."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from scene.checkpoint import newest_checkpoint
from tests.fleet_runs import kill, wait_until
from tests.tracked_head import write_tracked_head

ROOT = Path(__file__).resolve().parents[1]
STEPS = 40


def start(folder: Path) -> subprocess.Popen[str]:
    train = f"--iterations {STEPS} --batch_size 1 --num_face_gaussians 1000 --num_teeth_gaussians 50 " \
            "--checkpoint_interval 5 --log_interval 1 --tensorboard False --refine_tracking False --test_frames 4"
    command = [sys.executable, str(ROOT / "fleet.py"), "list", "-o", "out", "--scheduler", "local", "--retries", "0",
               "--train", train, "--test", "--lpips --video False", "--export", "avatar"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def test_a_list_becomes_avatars_though_one_is_broken_and_the_driver_is_killed(tmp_path: Path) -> None:
    write_tracked_head(tmp_path / "list" / "anna", 24, 48)
    (tmp_path / "list" / "bad.mp4").write_bytes(b"no video at all")
    driver = start(tmp_path)
    wait_until(lambda: any((tmp_path / "out" / "attempts").glob("anna/train-*/anna/checkpoints/iteration_*")))
    kill(driver)
    driver = start(tmp_path)
    said = driver.communicate(timeout=240)[0]
    assert driver.returncode == 1, said
    assert "1 of 2 finished, 1 failed" in said
    assert "FAILED bad: track: track.py: " in said and "neither video nor image could be read" in said
    avatar = tmp_path / "out" / "avatars" / "anna"
    assert newest_checkpoint(avatar).iteration == STEPS
    with open(avatar / "training.csv", newline="") as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == list(range(1, STEPS + 1)), "each step once"
    logs = [path.read_text() for path in (tmp_path / "out" / "logs" / "anna").glob("train-*.txt")]
    assert len(logs) == 2 and any("Resuming after iteration" in text for text in logs)
    assert "<title>anna" in (avatar / "report.html").read_text()
    assert (tmp_path / "out" / "exports" / "anna" / "anna.safetensors").is_file()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "data:image/jpeg" in page and "PSNR" in page
