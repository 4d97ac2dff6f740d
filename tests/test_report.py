"""The report: one file that needs nothing else, says what the files say, and survives what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation import EvaluationSettings, PosedMeshes, evaluate, merge_without_blendshapes
from tests.browser import find_chromium, open_tab
from utils import score_files
from utils.environment import describe_environment
from utils.report import folder as report_folder
from utils.report import write_report
from utils.report.charts import Series, line_chart, number, ticks

SIZE, FRAMES = 32, 12
VOID = {"meta", "img", "br", "line", "polyline", "link", "input"}


class View:
    """Looks along -z from 1 m in front of the origin; a plate of 20 cm fills 20 of the 32 pixels."""

    R = np.diag([1.0, -1.0, -1.0])
    t = np.array([0.0, 0.0, 1.0])
    K = np.array([[100.0, 0, 16], [0, 100.0, 16], [0, 0, 1]])
    width = height = SIZE


class Clip:
    def __init__(self, error: float) -> None:
        self.error = error
        self.pictures = np.random.default_rng(0).integers(60, 200, (FRAMES, SIZE, SIZE, 4), dtype=np.uint8)
        self.pictures[..., 3] = 255

    def rgba(self, index: int) -> np.ndarray:
        return self.pictures[index]

    def camera(self, index: int) -> View:
        return View()

    def render(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rgb = torch.from_numpy(self.pictures[list(indices), ..., :3]).permute(0, 3, 1, 2).float() / 255
        wrong = self.error * (1 + torch.tensor(list(indices)).view(-1, 1, 1, 1) / FRAMES)
        return rgb + wrong, torch.ones(len(indices), SIZE, SIZE)


def plate() -> PosedMeshes:
    vertices = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0.1, 0.1, 0], [-0.1, 0.1, 0]])
    ids = np.arange(4)
    return PosedMeshes(
        np.array([[0, 1, 2], [0, 2, 3]]), lambda index: vertices, {"face": ids, "eyes": ids, "mouth": ids}
    )


def make_run(run: Path, error: float = 0.02, video: bool = False) -> Path:
    clip = Clip(error)
    settings = EvaluationSettings(batch=6, lpips=(), video=video)
    evaluate(clip.render, clip, range(FRAMES), run, settings, plate())
    return run


class Checked(HTMLParser):
    """Collects links and text, and checks that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.images = 0
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "poster", "data-src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(path: Path) -> Checked:
    return Checked(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a film, settings and training curves, compared with one that is twice as wrong."""
    run = make_run(tmp_path_factory.mktemp("runs") / "subject", 0.02, video=True)
    make_run(run / "plain", 0.04)
    merge_without_blendshapes(run / "metrics.json", run / "plain" / "metrics.json")
    lines = [f"{i},{1 / i:.4f},{20 + i / 100},{1000 + i},3,{i / 10}" for i in range(10, 200, 10)]
    header = "iteration,loss,psnr,gaussians,sh_degree,seconds"
    (run / "training.csv").write_text("\n".join([header, *lines]) + "\n")
    (run / "config.json").write_text(json.dumps({"data": {"source_path": "a <b> & c", "bound": [1, None]}, "seed": 3}))
    return run


def test_the_page_is_one_well_formed_file_that_loads_nothing(compared: Path) -> None:
    page = read(write_report(compared))
    assert page.links and all(link.startswith("data:") for link in page.links)
    text = (compared / "report.html").read_text()
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert any(link.startswith("data:video/mp4") for link in page.links)


def test_the_page_says_what_the_scores_say(compared: Path) -> None:
    text = read(write_report(compared, title="My subject")).text
    metrics = score_files.read_metrics(compared / "metrics.json")
    for area in (metrics["test"], metrics["test"]["mouth"], metrics["without_blendshapes"]["head"]):
        assert f"{area['psnr']:.2f}" in text and f"{area['ssim']:.4f}" in text
    assert text.count("My subject") == 2  # title and heading
    assert "scored on 12 held-out frames" in text
    assert "LPIPS (AlexNet): not computed, because not asked for." in text
    assert metrics["definitions"]["psnr"] in text
    assert "seed" in text and "a <b> & c" in text and "[1, null]" in text  # settings, escaped
    assert "19.0 s" in text and "1,190" in text  # training time and Gaussians of the last line


def test_the_comparison_names_the_gain_and_shows_the_same_frames(compared: Path) -> None:
    page = read(write_report(compared, compared_frames=3))
    metrics = score_files.read_metrics(compared / "metrics.json")
    gain = metrics["test"]["psnr"] - metrics["without_blendshapes"]["psnr"]
    # an error twice as large everywhere is 6.02 dB (less what clamping to [0,1] and rounding take)
    assert gain == pytest.approx(6.02, abs=0.3)
    assert f"held-out PSNR is {gain:.2f} dB higher than without. They win in 12 of 12 frames." in page.text
    assert f"+{gain:.2f} dB by blendshapes" in page.text
    assert page.text.count("without blendshapes") >= 3 and page.text.count("mouth, enlarged") == 3
    # 9 strips of 4 pictures; 3 compared frames of 5 pictures and two zooms of 3
    assert page.images == 9 * 4 + 3 * (5 + 2 * 3)


def test_a_loss_is_called_a_loss(tmp_path: Path) -> None:
    run = make_run(tmp_path / "worse", 0.04)
    make_run(tmp_path / "better", 0.02)
    merge_without_blendshapes(run / "metrics.json", tmp_path / "better" / "metrics.json")
    text = read(write_report(run)).text
    assert re.search(r"PSNR is \d\.\d\d dB lower than without\. They win in 0 of 12 frames\.", text)
    assert "gains most" not in text and "−6." in text


def test_numbers_alone_are_compared_when_the_other_run_is_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    other = make_run(tmp_path / "other", 0.04)
    merge_without_blendshapes(run / "metrics.json", other / "metrics.json")
    other.rename(tmp_path / "moved")
    page = read(write_report(run))
    assert "dB higher than without." in page.text and "enlarged" not in page.text
    assert page.images == 9 * 4


def test_a_bare_run_has_a_page_without_the_missing_parts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = read(write_report(run, environment={"machine": "a test"}))
    for heading in ("What the blendshapes add", "In motion", "Training", "Settings"):
        assert heading not in page.text
    assert "By region" in page.text and "Frame by frame" in page.text and "a test" in page.text


def test_a_long_film_is_linked_and_not_embedded(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.report.gather.LARGEST_EMBEDDED_VIDEO", 10)
    assert "test/video.mp4" in read(write_report(compared)).links


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json: expected scores of a split, found \[\]"):
        write_report(tmp_path)
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"expected scores of train, found \['test'\]"):
        write_report(run, split="train")
    (run / "training.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"training\.csv: expected columns .*, got \['loss', 'step'\]"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_the_environment_names_machine_and_software() -> None:
    facts = describe_environment()
    assert {"system", "processor", "python", "torch"} <= facts.keys() and all(facts.values())


# --- charts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high", [(0.0, 1.0), (21.3, 34.7), (50_000, 62_000), (-3.0, 4.0), (1e-5, 3e-5), (7.0, 7.0)]
)
def test_ticks_are_round_even_and_cover_the_range(low: float, high: float) -> None:
    inside, around = ticks(low, high, 5), ticks(low, high, 5, outward=True)
    steps = np.diff(around)
    assert 2 <= len(inside) <= 11
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-6
    slack = 1e-9 * max(high - low, 1e-12)  # multiples of a decimal step round in the last bit
    assert around[0] <= low + slack and around[-1] >= high - slack
    if high > low:
        assert inside[0] >= low - slack and inside[-1] <= high + slack


def test_a_line_is_drawn_where_its_points_are() -> None:
    svg = str(line_chart("t", "frame", "dB", [Series("a", [0, 5, 10], [20.0, 25.0, 30.0])]))
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]+)"', svg)[0].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and y0 > y1 > y2  # up is a smaller y in SVG
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)


def test_long_curves_are_thinned_around_their_gaps() -> None:
    values = [float("nan") if i % 1000 == 0 else 1.0 for i in range(5000)]
    svg = str(line_chart("t", "x", "", [Series("a", range(5000), values)]))
    assert len(stretches(svg)) == 5
    assert 300 < sum(stretches(svg)) <= 605 and "nan" not in svg.lower()


def test_charts_without_points_vanish_and_names_are_escaped() -> None:
    assert line_chart("t", "x", "", [Series("a", [1.0], [float("nan")])]) == ""
    svg = str(line_chart("<t>", "x", "", [Series("a", [1], [2]), Series("<b>", [1], [3], "secondary")]))
    assert "<b></" not in svg and "&lt;t&gt;" in svg and "&lt;b&gt;" in svg


def test_a_series_needs_as_many_x_as_y() -> None:
    with pytest.raises(ValueError, match="series 'a': 2 x values but 1 y values"):
        Series("a", [1, 2], [1])


def test_tick_labels_are_short() -> None:
    assert [number(v) for v in (0.1 + 0.2, 12_000, 2_500_000, 25)] == ["0.3", "12k", "2.5M", "25"]


# --- details ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 8, 4), (90, 50, 100, 60), (40, 20, 60, 30), (0, 0, 100, 60)])
def test_zooms_have_one_shape_hold_the_box_and_do_not_distort(box: tuple[int, int, int, int]) -> None:
    rows, columns = np.mgrid[:60, :100].astype(np.uint8)
    detail = report_folder.zoom(np.dstack([rows, columns, rows]), box, aspect=2.0, width=200).astype(float)
    assert detail.shape == (100, 200, 3)
    top, left = detail[2:-2, 2:-2, 0], detail[2:-2, 2:-2, 1]  # bicubic resampling bends the very edge
    # one output pixel is the same length of the source along both axes (values are rounded to whole pixels)
    assert np.ptp(left) / left.shape[1] == pytest.approx(np.ptp(top) / top.shape[0], abs=0.03)
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    assert left.min() - 2 <= center[0] <= left.max() + 2 and top.min() - 2 <= center[1] <= top.max() + 2


def test_large_pictures_shrink_and_small_ones_stay() -> None:
    shown = [len(report_folder.picture(np.zeros((n, n, 3), np.uint8), "").source) for n in (512, 2048)]
    assert shown[0] == pytest.approx(shown[1], rel=0.05)


def stretches(svg: str) -> list[int]:
    """Points of each line of a chart."""
    return [len(points.split()) for points in re.findall(r'<polyline[^>]*points="([^"]*)"', svg)]


def test_charts_draw_no_line_where_nothing_was_scored() -> None:
    blocks = [0, 1, 2, 3, 40, 41, 42, 90]
    svg = str(line_chart("t", "frame", "dB", [Series("a", blocks, [float(x) for x in blocks], sampled=True)]))
    assert stretches(svg) == [4, 3, 2]  # the frame alone is a dot: a line from the point to itself
    apart = list(range(0, 100, 8))  # every eighth frame is one line
    assert stretches(str(line_chart("t", "frame", "dB", [Series("a", apart, apart, sampled=True)]))) == [len(apart)]
    assert stretches(str(line_chart("t", "iteration", "", [Series("a", blocks, blocks)]))) == [len(blocks)]


def test_charts_leave_a_gap_for_what_is_not_finite() -> None:
    values = [1.0, 2.0, float("nan"), 3.0, float("inf"), float("nan"), 4.0, 5.0, 6.0]
    assert stretches(str(line_chart("t", "x", "", [Series("a", range(9), values)]))) == [2, 2, 3]


def test_thinned_charts_keep_their_gaps() -> None:
    frames = [*range(2000), *range(6000, 8000)]
    svg = str(line_chart("t", "frame", "dB", [Series("a", frames, [1.0 * x for x in frames], sampled=True)]))
    assert len(stretches(svg)) == 2 and 500 < sum(stretches(svg)) <= 602


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome on PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_window(compared: Path, tmp_path: Path, width: int) -> None:
    write_report(compared, title="a_subject_with_a_name_of_many_letters_and_no_space")
    with open_tab((compared / "report.html").as_uri(), tmp_path / "browser", width, 800) as tab:
        tab.wait_for("document.readyState == 'complete' && document.images.length > 0")
        tab.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
