"""Every figure of README.md and docs/performance.md is a row of benchmarks/results.csv."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.pages import BLOCK, PAGES, TABLES, Row, Rows, renewed
from benchmarks.results import COLUMNS, RESULTS, Results, append_rows, begin

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"(?<![\w.,])[\d][\d,.]*"
WORD = (r"\b(?:half|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty"
        r"|sixty)"
        r"(?: and a half)?")
UNIT = (r"(?:images/s|images a second|frames/s|fps|ms|us|µs|s|seconds?|min|minutes?|hours?|dB|[KMGT]i?B|[GT]B/s"
        r"|launches|times (?:as|faster|slower))(?![\w/])|%")
MEASURED = re.compile(rf"{NUMBER}\s?(?:{UNIT})|{WORD}[ -](?:{UNIT.replace('s|', '', 1)})|(?<![\d\w])0?\.\d{{3,4}}\b")


def stray_figures(page: str) -> list[str]:
    """What looks like a measurement and stands in no generated table: numbers with a unit, scores, bare cells."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", BLOCK.sub("", page), flags=re.DOTALL)
    found = [match[0] for match in MEASURED.finditer(text)]
    for line in text.splitlines():
        if line.startswith("|"):
            found += [cell.strip() for cell in line.split("|") if re.fullmatch(r"\**\d[\d.,]*\**", cell.strip())]
    return found


@pytest.fixture(scope="module")
def rows():
    return Rows.read(RESULTS)


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_made_from_the_rows(name, rows):
    page = (ROOT / name).read_text()
    assert BLOCK.search(page), f"{name} has no table of figures"
    assert page == renewed(page, rows), "run: python -m benchmarks.figures --write"


@pytest.mark.parametrize("name", PAGES)
def test_no_figure_stands_outside_of_the_tables(name):
    assert stray_figures((ROOT / name).read_text()) == []


@pytest.mark.parametrize("text", ["done in 29 seconds", "3,552 images/s", "gains 0.4 dB", "needs 7 GiB", "LPIPS .1046",
                                  "in half a minute", "**30 %** less", "| speed | 1,067 |", "takes six minutes"])
def test_a_stray_figure_is_found(text):
    assert stray_figures(f"# Page\n\n{text}\n")
    marked = f"# Page\n\n<!-- figures: quality -->\n{text}\n<!-- end of figures -->\n"
    assert not stray_figures(marked)


@pytest.mark.parametrize("text", ["Python 3.10 to 3.13", "512 × 512", "`--iterations 40000`", "FLAME 2020", "sm_75"])
def test_what_is_no_measurement_is_left_alone(text):
    assert not stray_figures(text)


def test_every_table_stands_on_a_page():
    named = {match["name"] for name in PAGES for match in BLOCK.finditer((ROOT / name).read_text())}
    assert named == set(TABLES)


def test_a_mark_of_no_table_is_an_error(rows):
    with pytest.raises(ValueError, match=r"figures: nonsense: wanted one of quality, headline"):
        renewed("<!-- figures: nonsense -->\n<!-- end of figures -->", rows)


def row(commit, setting, value, gpu="G", date="2027-01-01"):
    return Row(date, commit, gpu, "quality_psnr", setting, value, "dB")


def test_seeds_are_those_of_the_newest_commit_and_its_last_run():
    rows = Rows([row("old", "x, seed 0", 1.0), row("old", "x, seed 1", 2.0), row("new", "x, seed 0", 3.0),
                 row("new", "x, seed 0", 5.0), row("new", "x, seed 2", 7.0), row("new", "y, seed 0", 9.0)])
    assert rows.values("quality_psnr", r"x, seed \d+") == [5.0, 7.0]
    assert rows.sources() == "Measured on: G, 2027-01-01."
    assert rows.values("quality_psnr", "z") == [] and rows.sources() == "–: not measured."


def test_a_value_that_is_no_number_names_its_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(",".join(COLUMNS) + "\n2027-01-01,c,g,n,s,fast,1/s\n")
    with pytest.raises(ValueError, match=r"rows\.csv, line 2: value: wanted a number, got 'fast'"):
        Rows.read(path)


def test_rows_of_another_machine_are_appended(tmp_path):
    path, more = tmp_path / "rows.csv", tmp_path / "more.csv"
    path.write_text(",".join(COLUMNS) + "\n2027-01-01,c,g,n,s,1,1/s\n")
    more.write_text(",".join(COLUMNS) + "\n2027-01-02,d,g,n,s,2,1/s\n")
    assert append_rows(more, path) == 1
    assert Rows.read(path).values("n", "s") == [2.0]
    more.write_text("<html>")
    with pytest.raises(ValueError, match=r"more\.csv: wanted rows under date,commit"):
        append_rows(more, path)


def test_a_file_of_several_processes_has_its_columns_once(tmp_path):
    path = tmp_path / "rows.csv"
    begin(path)
    Results(path, "c").add("n", "s", 1.0, "1/s")
    begin(path)
    assert path.read_text().count(",".join(COLUMNS)) == 1 and len(path.read_text().splitlines()) == 2


def parse(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["figures", *map(str, flags)])
    return figures.parse()


def test_parts_cover_the_rows_that_the_tables_ask_for(tmp_path, monkeypatch):
    args = parse(monkeypatch, "--part", "default", "compared", "--clip1", tmp_path, "--clip2", tmp_path, "--demo",
                 tmp_path)
    commands = [job.command(args) for part in args.part for job in figures.jobs_of(part, args)]
    assert len(commands) == 3 * 3 + 3 * 3
    labels = {command[command.index("--label") + 1] for command in commands}
    assert labels == {"default, seed 0", "default, seed 1", "default, seed 2", "default, not refined",
                      "method's settings, refined", "method's settings, not refined"}
    method = [command for command in commands if "method's settings, not refined" in command]
    for command in method:
        line = " ".join(command)
        assert "--iterations 40000" in line and "--refine_tracking False" in line and "--batch_size 1" in line
    assert all("--iterations" not in command for command in commands if "default, seed 0" in command)


def test_missing_subjects_are_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--part", "default", "raster", "--clip1", tmp_path, "--clip2", tmp_path / "nowhere")
    assert "--captured, --clip2, --demo: wanted for --part default raster; not given, or not there" in \
        capsys.readouterr().err


def test_small_rows_do_not_land_among_the_figures(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--part", "subject", "--small")
    assert "give another file with --results" in capsys.readouterr().err


def test_each_device_runs_one_job_at_a_time_and_failures_are_told(tmp_path, monkeypatch):
    args = parse(monkeypatch, "--part", "training", "--demo", tmp_path, "--devices", "0", "1", "--results",
                 tmp_path / "r")
    seen: list[str] = []

    def fake(command, cwd, env, check):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return subprocess.CompletedProcess(command, 1 if "benchmarks.naive" in command else 0)

    monkeypatch.setattr(subprocess, "run", fake)
    failed = figures.run(figures.jobs_of("training", args), args)
    assert len(seen) == 4 and set(seen) <= {"0", "1"}
    assert len(failed) == 1 and "benchmarks.naive" in failed[0]
