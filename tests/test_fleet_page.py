"""index.html and scores.csv: what they say of each state, of hostile names and errors, and how wide the page is."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestration.facts import THUMBNAIL, Facts
from orchestration.index_page import EMBEDDED, SHOWN, write_index
from orchestration.stages import STAGES, Place
from orchestration.standing import Standing, State
from orchestration.subjects import Subject
from tests.browser import find_chromium, open_tab
from utils.images import write_image

ROOT = Path(__file__).resolve().parents[1]
REASON = "https://example.org/" + "a-very-long-word-" * 20


def standing(out: Path, name: str, state: State, psnr: float | None = None, error: str = "") -> Standing:
    """A subject, with a picture where it has scores."""
    records: dict[str, dict[str, Any]] = {}
    if psnr is not None:
        records = {"track": {"seconds": 61.0, "verdict": {"word": "usable", "reasons": [REASON]}},
                   "train": {"seconds": 49.0},
                   "test": {"seconds": 12.0, "frames": 20, "scores": {"psnr": psnr, "ssim": 0.9, "lpips_alex": None}}}
        write_image(out / "avatars" / name / THUMBNAIL, np.full((40, 80, 3), 120, np.uint8))
    subject = Subject(name, Path("/videos") / f"{name}.mp4", True, {stage: {} for stage in STAGES})
    stage = "train" if state in ("failed", "running") else None
    return Standing(subject, Place(out, name), Facts(records), state, stage, error=error)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with every state."""
    write_index(tmp_path, [standing(tmp_path, "anna", "finished", 31.25), standing(tmp_path, "ben", "finished", 28.75),
                           standing(tmp_path, "carl", "failed", error="<script>alert(1)</script> & " + "x" * 500),
                           standing(tmp_path, "dora", "running"), standing(tmp_path, "emil", "waiting"),
                           standing(tmp_path, "n" * 100, "busy", error="being done by host2")], seconds=754.0)
    return tmp_path / "index.html"


def test_the_page_tells_everything_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    for told in ("2 of 6 avatars finished, 1 failed", "31.25 dB", "SSIM", "Tracking: usable",
                 "track 61 s, train 49 s", "running: train", "30.00", "13 min",
                 'href="avatars/anna/report.html"', 'href="data/anna/preview.mp4"'):
        assert told in text, told
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    assert text.count("data:image/jpeg") == 2 and 'http-equiv="refresh"' in text
    assert "src=\"http" not in text and "<link" not in text


def test_time_goes_on_only_while_something_runs(tmp_path: Path, page: Path) -> None:
    assert "running for" in page.read_text()
    write_index(tmp_path / "done", [standing(tmp_path / "done", "anna", "finished", 31.25)], seconds=1.0)
    text = (tmp_path / "done" / "index.html").read_text()
    assert "last call took" in text and "running for" not in text


def test_the_table_has_the_same_numbers(page: Path) -> None:
    with open(page.with_name("scores.csv"), newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["anna"]["psnr"] == "31.25" and rows["anna"]["train_seconds"] == "49.0"
    assert rows["anna"]["lpips_alex"] == "" and rows["anna"]["avatar"] == "avatars/anna"
    assert rows["carl"]["state"] == "failed" and rows["carl"]["error"].startswith("<script>")


def test_of_very_many_subjects_the_failed_ones_are_shown_and_pictures_stay_files(tmp_path: Path) -> None:
    many = [standing(tmp_path, f"s{number}", "waiting") for number in range(SHOWN + 10)]
    many += [standing(tmp_path, "done", "finished", 30.0), standing(tmp_path, "bad", "failed", error="no face")]
    write_index(tmp_path, many)
    text = (tmp_path / "index.html").read_text()
    assert text.count('<li class="subject') == SHOWN
    assert "no face" in text and f"of {len(many):,} subjects are shown" in text
    assert len(many) > EMBEDDED and "data:image" not in text and 'src="avatars/done/fleet.jpg"' in text
    assert 'http-equiv="refresh"' not in text, "nothing runs"
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == len(many) + 1


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here")
def test_in_a_browser_the_page_fits_a_phone_and_filters(page: Path, tmp_path: Path) -> None:
    with open_tab(page.as_uri(), tmp_path / "chromium", 390, 900) as tab:
        tab.wait_for("document.readyState == 'complete' && document.querySelectorAll('.subject').length == 6")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        tab.wait_for("document.images[0].naturalWidth == 80")
        visible = "[...document.querySelectorAll('.subject')].filter(e => !e.hidden).map(e => e.dataset.name).join()"
        tab.evaluate("document.querySelector('[data-state=finished][aria-pressed]').click()")
        assert tab.evaluate(visible) == "anna,ben"
        tab.evaluate("document.querySelector('[data-sort]').click()")
        assert tab.evaluate(visible) == "ben,anna"
        tab.call("Page.reload")
        tab.wait_for(f"document.readyState == 'complete' && {visible} == 'ben,anna'")


def test_nothing_that_only_schedules_loads_torch() -> None:
    """Ray's workers and the driver would take seconds and some hundred megabytes each for nothing."""
    command = [sys.executable, "-c", "import fleet, sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"
