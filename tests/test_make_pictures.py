"""The README's pictures: the loop closes, stays within its size, and needs a run that was tested."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from player import Player
from scripts.make_pictures import encode_loop, face_at, held_out, loop_cameras, loop_codes, loop_pictures, main
from tests.player_subject import lively_player, write_run
from tests.test_report import make_run

PLAYER = lively_player()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_the_loop_moves_and_closes() -> None:
    pictures = loop_pictures(PLAYER, 64, 24)
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    steps = [difference(a, b) for a, b in zip(pictures, [*pictures[1:], pictures[0]], strict=True)]
    assert min(steps) > 0, "every picture is another"
    assert steps[-1] < 2 * max(steps[:-1]), "the end leads into the beginning"
    assert face_at(0.0) == face_at(1.0)


def test_the_head_stays_in_the_picture_and_turns() -> None:
    places = [0.0, 0.25, 0.75]
    vertices = PLAYER.vertices(PLAYER.neutral_codes())[0]
    directions = []
    for camera in loop_cameras(PLAYER, 100, places):
        seen = (vertices @ camera.R[0].T + camera.t[0]) @ camera.K[0].T
        pixels = seen[:, :2] / seen[:, 2:]
        assert bool(((pixels > 0) & (pixels < 100)).all())
        directions.append(camera.R[0, 2])
    angle = float(np.degrees(np.arccos(float(directions[1] @ directions[2]))))
    assert 20 < angle < 45


def test_heads_with_numbered_expressions_play_their_clip() -> None:
    head = replace(PLAYER.head, expression_names=tuple(f"e{k}" for k in range(PLAYER.head.n_expression)))
    player = Player(head, PLAYER.avatar, PLAYER.clip, 3, PLAYER.num_expressions, PLAYER.device, "numbered")
    there, back = list(loop_codes(player, [0.5, 1.0]))
    np.testing.assert_array_equal(there.expression, PLAYER.clip.codes.expression[-1:])
    np.testing.assert_array_equal(back.expression, PLAYER.clip.codes.expression[:1])


def test_the_animation_takes_the_quality_that_fits() -> None:
    pictures = loop_pictures(PLAYER, 48, 6)
    large = encode_loop(pictures)
    assert large[:4] == b"RIFF" and b"ANIM" in large
    small = encode_loop(pictures, len(large) - 1)
    assert len(small) < len(large)
    with pytest.raises(ValueError, match="--side: 6 pictures of 48 pixels a side do not fit into 100 bytes"):
        encode_loop(pictures, 100)


def test_the_command_writes_both_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", PLAYER)
    with pytest.raises(SystemExit, match=r"evaluation.json; run test.py --model_path"):
        main([str(run), "--out", str(tmp_path / "out")])
    tested = make_run(tmp_path / "tested")
    shutil.copytree(tested / "test", run / "test")
    main([str(run), "--out", str(tmp_path / "out"), "--side", "48", "--seconds", "0.2"])
    assert "avatar.webp" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "out" / "demo.png"))
    row = cv2.imread(str(next((run / "test" / "side_by_side").iterdir())))
    assert picture is not None and row is not None and picture.shape == (2 * row.shape[0], row.shape[1], 3)
    done, animation = cv2.imreadanimation(str(tmp_path / "out" / "avatar.webp"))
    assert done and len(animation.frames) == 5 and animation.frames[0].shape[:2] == (48, 48)
    with pytest.raises(ValueError, match=r"00999.jpg: missing; test.py keeps"):
        held_out(run, [999])
