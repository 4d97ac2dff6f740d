"""Whatever may drive an avatar: CSV files of capture apps, data sets, runs; and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flame import load_head
from flame.rotations import matrix_from_6d
from reenactment.arkit import GAZE_SIDEWAYS, GAZE_UPRIGHT, codes_of_scores, score_key
from reenactment.arkit_csv import read_arkit_csv
from reenactment.driver import driver_of_clip, open_driver
from scene.clip import save_clip
from tests.heads import random_head
from tests.player_subject import lively_player, write_run
from tests.tracker_folder import record, write_folder, write_record

ARKIT = load_head("open").expression_names
ANGLES = ("HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw",
          "RightEyePitch", "RightEyeRoll")


def pascal(name: str) -> str:
    return name[0].upper() + name[1:]


def live_link(path: Path, rows: list[dict[str, float]], rate: int = 60, lost: tuple[int, ...] = ()) -> Path:
    """A take as Live Link Face writes it."""
    names = [*map(pascal, ARKIT), *ANGLES]
    lines = [",".join(["Timecode", "BlendShapeCount", *names])]
    for index, row in enumerate(rows):
        second, frame = divmod(index, rate)
        code = f"10:41:{5 + second:02d}:{frame:02d}.514"
        values = ["" if index in lost else f"{row.get(name, 0.0):.6f}" for name in names]
        lines.append(",".join([code, "0" if index in lost else "61", *values]))
    path.write_text("\n".join(lines) + "\n")
    return path


def column(name: str) -> int:
    return ARKIT.index(name)


def test_live_link_take(tmp_path: Path) -> None:
    rows = [{"JawOpen": 0.5 * k / 89, "EyeBlinkLeft": 0.25, "HeadYaw": 0.3} for k in range(90)]
    take = read_arkit_csv(live_link(tmp_path / "take.csv", rows))
    assert len(take.codes) == 90 and take.notes == ()
    assert take.fps == pytest.approx(60, rel=1e-3)
    assert take.codes.expression[-1, column("jawOpen")] == pytest.approx(0.5)
    assert take.codes.expression[0, column("eyeBlinkLeft")] == pytest.approx(0.25)
    # The jaw joint turns with jawOpen, as the open head has it.
    turned = matrix_from_6d(take.codes.jaw)[-1]
    angle = math.atan2(float(turned[2, 1]), float(turned[1, 1]))
    assert angle == pytest.approx(0.5 * float(take.head.expression_jaw[column("jawOpen"), 0]), abs=1e-5)
    assert take.motion is not None
    # Yaw turns the nose (+z) to the subject's left (+x), which is the camera's right (+x).
    nose = take.motion.R[0] @ torch.tensor([0.0, 0.0, 1.0])
    assert float(nose[0]) == pytest.approx(math.sin(0.3), abs=1e-5)


@pytest.mark.parametrize("spell", [
    lambda name: name, pascal, str.lower, str.upper,
    lambda name: name.replace("Left", "_L").replace("Right", "_R") if name.endswith(("Left", "Right")) else name,
])
def test_spellings_of_names(tmp_path: Path, spell) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(",".join(map(spell, ARKIT)) + "\n" + ",".join(str(k / 100) for k in range(52)) + "\n")
    take = read_arkit_csv(path)
    assert torch.allclose(take.codes.expression[0], torch.arange(52) / 100)
    assert take.motion is None and take.fps is None


def test_score_keys_of_the_52_names_differ() -> None:
    assert len({score_key(name) for name in ARKIT}) == 52


def test_mediapipe_table_with_seconds_and_semicolons(tmp_path: Path) -> None:
    names = ["time", "_neutral", *(name for name in ARKIT if name != "tongueOut")]
    path = tmp_path / "scores.csv"
    rows = [";".join(names), *(";".join([f"{k / 24:.5f}", "0.9", *["0.1"] * 51]) for k in range(5))]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())  # as spreadsheets save it
    take = read_arkit_csv(path)
    assert take.notes == () and take.fps == pytest.approx(24, rel=1e-3)
    assert float(take.codes.expression[0, column("tongueOut")]) == 0


def test_missing_columns_are_told_and_rest(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text(",".join(ARKIT[:40]) + "\n" + ",".join(["0.5"] * 40) + "\n")
    take = read_arkit_csv(path)
    assert len(take.notes) == 1 and ARKIT[40] in take.notes[0] and "taken as 0" in take.notes[0]
    assert float(take.codes.expression[0, 40:].abs().max()) == 0


def test_rows_without_a_face_hold_the_last_one(tmp_path: Path) -> None:
    rows = [{"JawOpen": k / 10, "HeadYaw": k / 10} for k in range(6)]
    take = read_arkit_csv(live_link(tmp_path / "lost.csv", rows, lost=(0, 3, 4)))
    assert take.codes.expression[:, column("jawOpen")].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2, 0.5])
    assert "3 rows without scores" in take.notes[0]
    assert take.fps == pytest.approx(60, rel=1e-3)  # times are those of the rows


@pytest.mark.parametrize("header", [ARKIT, [*ARKIT, "time"], ["time", *ARKIT], ["Frame", "time", *ARKIT]])
def test_blank_rows_hold_the_last_one_wherever_the_time_stands(tmp_path: Path, header: list[str]) -> None:
    def row(k: int) -> str:
        cells = {"Frame": str(k), "time": f"{k / 30:.5f}"}
        return ",".join(cells.get(name, "" if k in (0, 2, 3) else f"{k / 10}") for name in header)

    path = tmp_path / "blank.csv"
    path.write_text("\n".join([",".join(header), *map(row, range(6))]) + "\n")
    take = read_arkit_csv(path)
    assert take.codes.expression[:, column("jawOpen")].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.4, 0.5])
    assert "3 rows without scores" in take.notes[0]
    assert take.fps == (pytest.approx(30, rel=1e-3) if "time" in header else None)


@pytest.mark.parametrize(("delimiter", "decimal", "encoding", "first"), [
    (";", ",", "utf-8", ""), ("\t", ",", "utf-8", ""), ("\t", ".", "utf-16", ""), (",", ".", "utf-8", "sep=,\n"),
    (";", ",", "utf-8-sig", "sep=;\n"),
])
def test_tables_as_spreadsheets_save_them(
    tmp_path: Path, delimiter: str, decimal: str, encoding: str, first: str
) -> None:
    rows = [["time", *ARKIT], *([f"{k / 25:.2f}".replace(".", decimal), *[f"0{decimal}25"] * 52] for k in range(4))]
    path = tmp_path / "sheet.csv"
    path.write_bytes((first + "\r\n".join(map(delimiter.join, rows))).encode(encoding))
    take = read_arkit_csv(path)
    assert take.codes.expression.tolist() == [[0.25] * 52] * 4
    assert take.fps == pytest.approx(25, rel=1e-3)


def test_head_angles_in_degrees_and_flipped(tmp_path: Path) -> None:
    radians = read_arkit_csv(live_link(tmp_path / "r.csv", [{"HeadPitch": math.radians(20)}])).motion
    degrees = read_arkit_csv(live_link(tmp_path / "d.csv", [{"HeadPitch": -20}]), ["pitch"]).motion
    assert radians is not None and degrees is not None
    assert torch.allclose(radians.R, degrees.R, atol=1e-5)


def test_gaze_follows_the_scores() -> None:
    head = load_head("open")
    scores = {"eyeLookOutLeft": torch.tensor([1.0]), "eyeLookInRight": torch.tensor([1.0]),
              "eyeLookDownLeft": torch.tensor([0.5]), "eyeLookDownRight": torch.tensor([0.5])}
    eyes = matrix_from_6d(codes_of_scores(head, scores).eyes.reshape(2, 6))
    forward = eyes @ torch.tensor([0.0, 0.0, 1.0])
    length = math.hypot(GAZE_SIDEWAYS, 0.5 * GAZE_UPRIGHT)
    for gaze in forward:  # both look to the subject's left (+x) and down (-y)
        assert float(gaze[0]) == pytest.approx(math.sin(length) * GAZE_SIDEWAYS / length, abs=1e-5)
        assert float(gaze[1]) == pytest.approx(-math.sin(length) * 0.5 * GAZE_UPRIGHT / length, abs=1e-5)


def test_scores_need_a_head_with_their_names() -> None:
    with pytest.raises(ValueError, match="head 'random': wanted one with ARKit's expressions"):
        codes_of_scores(random_head(), {"jawOpen": torch.zeros(1)})


def table(cells: str = "0.1", header: str | None = None, rows: int = 1) -> bytes:
    names = ",".join(ARKIT) if header is None else header
    return (names + "\n" + rows * (",".join([cells] * 52) + "\n")).encode()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "empty; wanted a header with ARKit's blendshape names"),
    (b"\n,,\n", "empty; wanted a header"),
    ((",".join(ARKIT) + "\n").encode(), "a header without rows"),
    (b"frame,x,y,z,w,v\n1,2,3,4,5,6\n", r"with ARKit's 52 .* got 0 of them in: frame, x, y, z, w \.{3}"),
    (b"jawOpen,browInnerUp\n0.1,0.2\n", "got 2 of them in: jawOpen, browInnerUp$"),
    (table("nan"), "row 2, column browDownLeft: wanted a finite number, got 'nan'"),
    (table("inf"), "row 2, column browDownLeft: wanted a finite number, got 'inf'"),
    (table("open"), "row 2, column browDownLeft: wanted a finite number, got 'open'"),
    (table() + b"0.1,0.2\n", "row 3, column browInnerUp: wanted a finite number, got ''"),
    (table("40"), r"wanted scores of 0 to 1, got values up to 40; divide them by 100"),
    (("frame," + ",".join(ARKIT) + 3 * ("\n1" + 52 * ",")).encode(), "not one of its 3 rows has scores"),
    (b"Timecode\xe9,jawOpen\n", "wanted a CSV in UTF-8 or UTF-16, got other bytes"),
])
def test_bad_tables_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_driver(path)
    assert str(path) in str(caught.value)


def test_time_codes_across_seconds_and_drop_frames(tmp_path: Path) -> None:
    path = tmp_path / "ntsc.csv"
    rows = [f"00:00:0{k // 30}:{k % 30:02d}.0," + ",".join(["0.1"] * 52) for k in range(60)]
    path.write_text("Timecode," + ",".join(ARKIT) + "\n" + "\n".join(rows) + "\n")
    assert read_arkit_csv(path).fps == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize("time", ["yesterday", "0", "1e400"])
def test_times_without_sense_are_not_used(tmp_path: Path, time: str) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("time," + ",".join(ARKIT) + "\n" + 3 * (time + "," + ",".join(["0.1"] * 52) + "\n"))
    assert read_arkit_csv(path).fps is None


# Folders.


def test_a_run_drives(tmp_path: Path) -> None:
    player = lively_player()
    driver = open_driver(write_run(tmp_path / "run", player))
    assert len(driver) == len(player.clip) and driver.name == "run" and driver.pictures is None
    assert torch.equal(driver.codes.expression, player.clip.codes.expression)
    assert driver.motion is not None and torch.equal(driver.motion.R, player.clip.R)


def open_data(folder: Path, frames: int = 4) -> Path:
    """A data set tracked with the open head."""
    write_folder(folder, frames)
    for index in range(frames):
        content = record(index)
        content["flame"]["shape"][:], content["flame"]["exp"][:, 52:] = 0, 0
        write_record(folder, index, content)
    (folder / "canonical.obj").unlink()
    (folder / "head.json").write_text('{"head": "open"}')
    return folder


def test_a_data_set_drives_with_its_pictures(tmp_path: Path) -> None:
    driver = open_driver(open_data(tmp_path / "data")).at([1, 3])
    assert driver.codes.expression[:, 0].tolist() == pytest.approx([0.01, 0.03])
    assert driver.pictures is not None and driver.motion is not None and len(driver.motion) == 2
    pictures = list(driver.pictures())
    assert [picture.shape for picture in pictures] == [(20, 24, 3)] * 2
    assert pictures[1][0, 0].tolist() == [30, 100, 200]
    assert pictures[1][0, -1].tolist() == [15, 50, 100]  # half transparent, on black
    assert [len(list(driver.pictures())) for _ in range(2)] == [2, 2]  # any number of times


def test_a_data_set_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    """100 expression codes, of which the open head has 52."""
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "canonical.obj").unlink()
    with pytest.raises(ValueError, match=r"(shape|expression) coefficient \d+ is .* but the head model has only"):
        open_driver(tmp_path / "data", head="open")


def test_a_data_set_of_a_head_that_is_missing_says_which(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    with pytest.raises(ValueError, match=r"its codes belong to head 'flame', which does not open: .*--driver_head"):
        open_driver(tmp_path / "data", head=str(tmp_path / "gone.pkl"))


def test_a_clip_of_other_code_counts_is_refused() -> None:
    clip = lively_player().clip
    with pytest.raises(ValueError, match="other: wanted 4 expression codes, for it says to be of random, got 52"):
        driver_of_clip("other", clip, random_head())


@pytest.mark.parametrize(("name", "message"), [
    ("film.mp4", r"got a \.mp4 file; for a film of a face use --video"),
    ("notes.txt", r"wanted the output folder of a training run .* got a \.txt file$"),
    ("nothing", "got a nameless file"),
])
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        open_driver(tmp_path / name)


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such file or folder; wanted the output folder"):
        open_driver(tmp_path / "gone")
    with pytest.raises(ValueError, match="got a folder with nothing"):
        open_driver(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="got a folder with holiday.jpg"):
        open_driver(tmp_path)


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.safetensors").write_bytes(np.arange(9).tobytes())
    with pytest.raises(ValueError, match="clip.safetensors"):
        open_driver(tmp_path)


def test_a_run_with_codes_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    player = lively_player()
    expression = player.clip.codes.expression.clone()
    expression[2, 7] = math.nan
    codes = dataclasses.replace(player.clip.codes, expression=expression)
    save_clip(dataclasses.replace(player.clip, codes=codes), tmp_path)
    with pytest.raises(ValueError, match=r"clip.safetensors: .*codes.expression"):
        open_driver(tmp_path)


def test_a_data_set_with_codes_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    folder = open_data(tmp_path / "data")
    content = record(2)
    content["flame"]["exp"][0, 3] = math.nan
    write_record(folder, 2, content)
    with pytest.raises(ValueError, match=r"00002.frame: expression: 1 of 100 numbers are not finite"):
        open_driver(folder)
