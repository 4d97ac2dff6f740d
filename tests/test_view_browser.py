"""The viewer as a user meets it: view.py from the shell, a real browser, a slider dragged with the mouse."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from player.views import front_frame
from tests.browser import Tab, find_chromium, open_tab
from tests.player_subject import lively_player, write_run
from viewer.camera import clip_camera
from viewer.picture import Painter
from viewer.state import ViewState

ROOT = Path(__file__).resolve().parents[1]
PLAYER = lively_player()
WIDTH, HEIGHT = 860, 480

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome on PATH")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a fresh view.py answers."""
    folder = write_run(tmp_path_factory.mktemp("run") / "lively", PLAYER)
    process = subprocess.Popen([sys.executable, "view.py", str(folder), "--port", "0", "--device", "cpu"], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    while "Open http" not in said:
        line = process.stdout.readline()
        assert line, f"view.py ended: {said}"
        said += line
    yield re.findall(r"Open (http://localhost:\d+)", said)[0]
    process.kill()
    process.wait()


def canvas(tab: Tab) -> tuple[int, int, int, int]:
    """Left, top, width and height of the picture in the window."""
    box = tab.evaluate("(() => {const b = document.querySelector('canvas').getBoundingClientRect();"
                       "return [b.x, b.y, b.width, b.height]})()")
    left, top, width, height = (round(value) for value in box)
    return left, top, width, height


def shown(tab: Tab) -> np.ndarray:
    """The picture as the browser shows it."""
    left, top, width, height = canvas(tab)
    return tab.screenshot()[top:top + height, left:left + width]


def wait_for(tab: Tab, wanted: Callable[[np.ndarray], bool], seconds: float = 40) -> np.ndarray:
    """The picture once it is as wanted and stands still; software WebGL takes seconds for its first."""
    end, before = time.monotonic() + seconds, None
    while time.monotonic() < end:
        picture = shown(tab)
        if before is not None and np.array_equal(picture, before) and wanted(picture):
            return picture
        before = picture
        time.sleep(0.4)
    raise TimeoutError("the picture did not become what was wanted")


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


def test_dragging_the_jaw_slider_changes_the_lower_face(address: str, tmp_path: Path) -> None:
    painter = Painter(PLAYER)
    with open_tab(address, tmp_path / "chromium", WIDTH, HEIGHT) as tab:
        tab.wait_for("document.body && document.body.innerText.includes('Face') && !!document.querySelector('canvas')")
        tab.evaluate("for (const b of document.querySelectorAll('.mantine-Notification-closeButton')) b.click()")
        _, _, width, height = canvas(tab)
        first = ViewState(frame=front_frame(PLAYER.clip))
        camera = clip_camera(PLAYER.clip, first.frame, width, height)
        expected = painter.paint(first, camera)
        # The browser scales by less than a pixel and JPEG takes its share; a wrong camera or frame gives below 15.
        before = wait_for(tab, lambda picture: picture.shape == expected.shape and psnr(picture, expected) > 20)
        tab.click(*tab.middle_of("[role=tab]", "Face"))
        thumb = tab.wait_for("""(() => {
            const label = [...document.querySelectorAll('label')].find(e => e.innerText.trim() == 'open (°)');
            let row = label; while (row && !row.querySelector('[role=slider]')) row = row.parentElement;
            if (!row) return null;
            const box = row.querySelector('[role=slider]').getBoundingClientRect();
            return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null})()""")
        tab.drag((thumb[0], thumb[1]), (thumb[0] + 60, thumb[1]))
        after = wait_for(tab, lambda picture: psnr(picture, before) < 35)
    difference = np.abs(after.astype(int) - before).max(axis=2)
    clear = cv2.erode((difference > 24).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # JPEG's specks left out
    vertices = PLAYER.vertices(painter.codes(first))[0][PLAYER.head.regions["eyes"]]
    eyes = (vertices @ camera.R[0].T + camera.t[0]) @ camera.K[0].T
    eye_row = float((eyes[:, 1] / eyes[:, 2]).mean())
    rows, columns = np.nonzero(clear)
    assert len(rows) > 200, "the mouth opens"
    assert rows.min() > eye_row, "nothing above the eyes moves with the jaw"
    assert abs(columns.mean() - width / 2) < 0.25 * width
