"""The evaluation loop on a made-up head: scores, files, regions, and what is missing saying why."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation import EvaluationSettings, PosedMeshes, evaluate, merge_without_blendshapes, pictures, regions, scores
from tests.lpips_weights import random_alexnet
from utils import metrics, score_files
from utils.images import read_rgb

HEIGHT, WIDTH, FRAMES = 48, 40, 7
NO_LPIPS = EvaluationSettings(batch=3, lpips=())


@dataclass(frozen=True)
class View:
    """A camera 1 m in front of the origin, looking along -z of the world."""

    R: np.ndarray
    t: np.ndarray
    K: np.ndarray
    width: int = WIDTH
    height: int = HEIGHT


CAMERA = View(
    np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 1.0]), np.array([[100.0, 0, 20], [0, 100.0, 24], [0, 0, 1]])
)


class Clip:
    """Seven noisy frames with a disc as the head; the renderer is wrong by an amount that grows with the index."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.colors = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        self.disc = ((columns - 20) ** 2 + (rows - 24) ** 2 < 15**2).astype(np.uint8) * 255
        self.calls: list[list[int]] = []

    def rgba(self, index: int) -> np.ndarray:
        return np.dstack([self.colors[index], self.disc])

    def camera(self, index: int) -> View:
        return CAMERA

    def render(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.calls.append(list(indices))
        rgba = torch.from_numpy(np.stack([self.rgba(i) for i in indices])).float() / 255
        error = torch.tensor([0.01 * (i + 1) for i in indices]).view(-1, 1, 1, 1)
        return (rgba[..., :3] * rgba[..., 3:]).permute(0, 3, 1, 2) + error, rgba[..., 3]


def plate(center: tuple[float, float], half: float, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """A square of two triangles facing the camera: vertices [4,3], faces [2,3]."""
    x, y = center
    corners = [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]]
    return np.array([[*corner, depth] for corner in corners]), np.array([[0, 1, 2], [0, 2, 3]])


def meshes(names: Sequence[str] = ("face", "eyes", "mouth")) -> PosedMeshes:
    """A face plate with two eyes and a mouth in front of it; vertex numbers 0-3, 4-11, 12-15."""
    pieces = [plate((0, 0), 0.1, 0), plate((-0.05, 0.05), 0.02, 0.01), plate((0.05, 0.05), 0.02, 0.01)]
    pieces.append(plate((0, -0.05), 0.03, 0.01))
    vertices = np.concatenate([piece[0] for piece in pieces])
    faces = np.concatenate([piece[1] + 4 * i for i, piece in enumerate(pieces)])
    known = {"face": np.arange(4), "eyes": np.arange(4, 12), "mouth": np.arange(12, 16), "lower_neck": np.arange(2)}
    return PosedMeshes(faces, lambda index: vertices, {name: known[name] for name in names})


@pytest.fixture
def clip() -> Clip:
    return Clip()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- the loop ----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_metrics_and_do_not_depend_on_the_batch(clip: Clip, tmp_path: Path) -> None:
    one = evaluate(clip.render, clip, range(FRAMES), tmp_path / "a", EvaluationSettings(batch=1, lpips=()), meshes())
    many = evaluate(clip.render, clip, range(FRAMES), tmp_path / "b", EvaluationSettings(batch=4, lpips=()), meshes())
    assert one["test"] == many["test"]
    image, _ = clip.render(range(FRAMES))
    target, prediction = metrics.on_black(torch.from_numpy(np.stack([clip.rgba(i) for i in range(FRAMES)])), image)
    head = torch.from_numpy(clip.disc > 0).expand(FRAMES, -1, -1)
    block = many["test"]
    # metrics.json is rounded to six decimals
    assert block["psnr"] == pytest.approx(metrics.psnr(prediction, target).mean().item(), abs=1e-5)
    assert block["ssim"] == pytest.approx(metrics.ssim(prediction, target).mean().item(), abs=1e-5)
    assert block["head"]["psnr"] == pytest.approx(metrics.psnr(prediction, target, head).mean().item(), abs=1e-5)
    assert block["head"]["ssim"] == pytest.approx(metrics.ssim(prediction, target, head).mean().item(), abs=1e-5)
    assert block["frames"] == block["head"]["frames"] == FRAMES


def test_no_more_than_a_batch_is_rendered_at_once_and_each_frame_once(clip: Clip, tmp_path: Path) -> None:
    evaluate(clip.render, clip, [1, 2, 4, 6], tmp_path, NO_LPIPS)
    assert clip.calls == [[1, 2, 4], [6]]


def test_metrics_json_has_the_agreed_shape_with_reasons_beside_nulls(clip: Clip, tmp_path: Path) -> None:
    returned = evaluate(clip.render, clip, range(FRAMES), tmp_path, NO_LPIPS, meshes(["face", "eyes"]))
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == returned
    block = content["test"]
    assert block["lpips_alex"] is None and block["lpips_alex_reason"] == "not asked for"
    assert block["head"]["lpips_vgg"] is None and block["head"]["lpips_vgg_reason"] == "not asked for"
    assert block["mouth"] is None and block["mouth_reason"] == "the head model does not know this region"
    assert set(block["eyes"]) >= {"frames", "psnr", "ssim", "lpips_alex", "lpips_vgg"}
    assert content["definitions"] == metrics.DEFINITIONS


def test_without_a_mesh_regions_are_null_with_the_reason(clip: Clip, tmp_path: Path) -> None:
    block = evaluate(clip.render, clip, [0], tmp_path, NO_LPIPS)["test"]
    assert [block[name] for name in ("face", "eyes", "mouth")] == [None] * 3
    assert block["face_reason"] == "no head mesh was given"
    assert json.loads((tmp_path / "test" / "evaluation.json").read_text())["panels"] == list(pictures.PANELS[:3])


def test_the_csv_has_one_row_a_frame_and_averages_to_metrics_json(clip: Clip, tmp_path: Path) -> None:
    block = evaluate(clip.render, clip, range(FRAMES), tmp_path, NO_LPIPS, meshes())["test"]
    with open(tmp_path / "test" / "frames.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["index"]) for line in lines] == list(range(FRAMES))
    assert list(lines[0]) == ["index", *score_files.COLUMNS]
    assert lines[0]["lpips_alex"] == ""
    mean = np.mean([float(line["mouth_psnr"]) for line in lines])
    assert block["mouth"]["psnr"] == pytest.approx(mean, abs=1e-3)  # the csv keeps six digits
    assert score_files.read_csv(tmp_path / "test" / "frames.csv")[3]["psnr"] == float(lines[3]["psnr"])


def test_all_pictures_and_the_video_are_written(clip: Clip, tmp_path: Path) -> None:
    evaluate(clip.render, clip, range(FRAMES), tmp_path, NO_LPIPS, meshes())
    expected = {f"test/prediction/{i:05d}.png" for i in range(FRAMES)}
    expected |= {f"test/side_by_side/{i:05d}.jpg" for i in range(FRAMES)}
    expected |= {"metrics.json", "test/frames.csv", "test/evaluation.json", "test/video.mp4"}
    assert files(tmp_path) == expected
    picture = read_rgb(tmp_path / "test/side_by_side/00000.jpg")
    assert picture.shape == (HEIGHT + pictures.CAPTION_HEIGHT, 4 * WIDTH + pictures.SCALE_WIDTH, 3)
    with av.open(str(tmp_path / "test" / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == FRAMES


def test_only_selected_pictures_on_request(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    measure = scores.measure

    def counting(prediction: Tensor, target: Tensor, masks: dict[str, Tensor]) -> list[score_files.Row]:
        scored.append(len(prediction))
        return measure(prediction, target, masks)

    monkeypatch.setattr(scores, "measure", counting)
    settings = EvaluationSettings(lpips=(), pictures="selected", selected=1, video=False)
    evaluate(clip.render, clip, range(FRAMES), tmp_path, settings)
    chosen = json.loads((tmp_path / "test/evaluation.json").read_text())["selection"]
    assert chosen == {"best": [0], "median": [3], "worst": [6]}  # the renderer's error grows with the index
    assert sum(scored) == FRAMES  # the second pass, for the pictures, scores nothing again
    names = {path.stem for path in (tmp_path / "test" / "prediction").iterdir()}
    assert names == {"00000", "00003", "00006"}  # the two evenly spread ones, 0 and 6, are among them
    assert not (tmp_path / "test" / "video.mp4").exists()


def test_nothing_of_an_earlier_evaluation_stays(clip: Clip, tmp_path: Path) -> None:
    evaluate(clip.render, clip, range(FRAMES), tmp_path, NO_LPIPS)
    evaluate(clip.render, clip, [2, 3], tmp_path, EvaluationSettings(lpips=(), video=False))
    pictures_left = {"test/prediction/00002.png", "test/prediction/00003.png"}
    pictures_left |= {"test/side_by_side/00002.jpg", "test/side_by_side/00003.jpg"}
    assert files(tmp_path) == pictures_left | {"metrics.json", "test/frames.csv", "test/evaluation.json"}


def test_two_runs_with_selected_pictures_share_some(clip: Clip, tmp_path: Path) -> None:
    def other(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        image, alpha = clip.render(indices)
        return image + 0.1 * torch.sin(torch.tensor(indices)).view(-1, 1, 1, 1), alpha

    settings = EvaluationSettings(lpips=(), pictures="selected", selected=1, video=False)
    for name, render in (("a", clip.render), ("b", other)):
        evaluate(render, clip, range(FRAMES), tmp_path / name, settings)
    a, b = (files(tmp_path / name / "test" / "side_by_side") for name in "ab")
    assert a != b and {"00000.jpg", "00006.jpg"} <= a & b


@pytest.mark.parametrize("background, shade", [("black", 0), ("white", 255)])
def test_the_background_shows_in_pictures_but_not_in_scores(
    clip: Clip, tmp_path: Path, background: Any, shade: int
) -> None:
    def exact(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rgba = torch.from_numpy(np.stack([clip.rgba(i) for i in indices])).float() / 255
        return (rgba[..., :3] * rgba[..., 3:]).permute(0, 3, 1, 2), rgba[..., 3]

    block = evaluate(exact, clip, [0], tmp_path, EvaluationSettings(lpips=(), background=background))["test"]
    picture = read_rgb(tmp_path / "test/prediction/00000.png")
    assert (picture[0, 0] == shade).all()
    assert (picture[24, 20] == clip.rgba(0)[24, 20, :3]).all()
    assert block["psnr"] == 100


def test_other_splits_are_kept_in_metrics_json(clip: Clip, tmp_path: Path) -> None:
    evaluate(clip.render, clip, [0, 1], tmp_path, NO_LPIPS, split="test")
    content = evaluate(clip.render, clip, [2], tmp_path, NO_LPIPS, split="train")
    assert (content["test"]["frames"], content["train"]["frames"]) == (2, 1)


def test_bad_input_is_named(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test: no frames to evaluate"):
        evaluate(clip.render, clip, [], tmp_path, NO_LPIPS)

    def small(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(indices), 3, 8, 8), torch.zeros(len(indices), 8, 8)

    with pytest.raises(ValueError, match=r"frame 5: expected ground truth \[8, 8, 4\], got \[48, 40, 4\]"):
        evaluate(small, clip, [5], tmp_path, NO_LPIPS)

    def broken(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        image, alpha = clip.render(indices)
        image[1, :, 3, 4] = torch.nan
        return image, alpha

    with pytest.raises(ValueError, match="frame 5: 3 numbers of the rendered image are not finite"):
        evaluate(broken, clip, [4, 5], tmp_path, NO_LPIPS)
    with pytest.raises(ValueError, match="lpips_every: expected at least 1, got 0"):
        EvaluationSettings(lpips_every=0)
    assert files(tmp_path) == set()


# --- LPIPS in the loop -------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return random_alexnet(tmp_path / "weights")


def test_lpips_goes_where_its_weights_are_and_elsewhere_says_why(clip: Clip, tmp_path: Path, weights: Path) -> None:
    settings = EvaluationSettings(batch=2, lpips_folder=weights, lpips_every=3)
    block = evaluate(clip.render, clip, range(FRAMES), tmp_path, settings, meshes())["test"]
    assert block["lpips_alex"] > 0 and block["head"]["lpips_alex"] > 0 and block["eyes"]["lpips_alex"] > 0
    assert block["lpips_vgg"] is None and "holds none of vgg16_features.pth" in block["lpips_vgg_reason"]
    assert block["lpips_frames"] == 3
    rows = score_files.read_csv(tmp_path / "test" / "frames.csv")
    assert [index for index, row in rows.items() if "lpips_alex" in row] == [0, 3, 6]


def test_head_lpips_ignores_what_is_outside_the_head(clip: Clip, weights: Path) -> None:
    perceptual = scores.PerceptualMetrics.load(weights, ["alex"], HEIGHT)
    target, prediction = torch.rand(2, 1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).unbind()
    head = torch.from_numpy(clip.disc > 0)[None]
    spoiled = torch.where(head, prediction, 1 - prediction)
    (clean,) = scores.measure_perceptual(perceptual, prediction, target, {"head": head})
    (other,) = scores.measure_perceptual(perceptual, spoiled, target, {"head": head})
    assert other["head_lpips_alex"] == clean["head_lpips_alex"] != 0
    assert other["lpips_alex"] != clean["lpips_alex"]
    (empty,) = scores.measure_perceptual(perceptual, prediction, target, {"head": head & False})
    assert "head_lpips_alex" not in empty


def test_lpips_in_parts_is_lpips_at_once(clip: Clip, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perceptual = scores.PerceptualMetrics.load(weights, ["alex"], HEIGHT)
    target, prediction = torch.rand(2, 3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).unbind()
    masks = {"head": torch.from_numpy(clip.disc > 0).expand(3, -1, -1)}
    whole = scores.measure_perceptual(perceptual, prediction, target, masks)
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 2 * HEIGHT * WIDTH)
    parts = scores.measure_perceptual(perceptual, prediction, target, masks)
    # convolutions of another batch size sum in another order
    assert [list(row.values()) for row in parts] == [pytest.approx(list(row.values()), rel=1e-4) for row in whole]


def test_too_small_images_are_a_reason(weights: Path) -> None:
    reasons = scores.PerceptualMetrics.load(weights, ["alex"], 20).reasons
    assert reasons["lpips_alex"] == "images of 20 pixels are too small for AlexNet"


# --- comparison of two runs --------------------------------------------------------------------------------------


def worse(clip: Clip, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    image, alpha = clip.render(indices)
    return image + 0.1, alpha


def test_another_run_is_merged_as_without_blendshapes(clip: Clip, tmp_path: Path) -> None:
    ours = evaluate(clip.render, clip, [0, 1], tmp_path / "with", NO_LPIPS)["test"]
    theirs = evaluate(lambda indices: worse(clip, indices), clip, [0, 1], tmp_path / "without", NO_LPIPS)["test"]
    merged = merge_without_blendshapes(tmp_path / "with/metrics.json", tmp_path / "without/metrics.json")
    assert merged == json.loads((tmp_path / "with" / "metrics.json").read_text())
    assert merged["test"] == ours and merged["without_blendshapes"] == theirs != ours
    assert merged["without_blendshapes_run"] == "../without"


def test_a_new_test_drops_the_old_comparison(clip: Clip, tmp_path: Path) -> None:
    for name in ("with", "without"):
        evaluate(clip.render, clip, [0, 1], tmp_path / name, NO_LPIPS)
    merge_without_blendshapes(tmp_path / "with/metrics.json", tmp_path / "without/metrics.json")
    kept = evaluate(clip.render, clip, [2], tmp_path / "with", NO_LPIPS, split="train")
    assert "without_blendshapes" in kept and "train" in kept
    renewed = evaluate(clip.render, clip, [0, 1], tmp_path / "with", NO_LPIPS)
    assert renewed.keys() == {"test", "train", "definitions"}


def test_runs_that_do_not_compare_are_refused(clip: Clip, tmp_path: Path) -> None:
    evaluate(clip.render, clip, [0, 1], tmp_path / "with", NO_LPIPS)
    evaluate(clip.render, clip, [0], tmp_path / "without", NO_LPIPS)
    file = tmp_path / "with" / "metrics.json"
    with pytest.raises(ValueError, match="tested on 1 frames, .*on 2: the two cannot be compared"):
        merge_without_blendshapes(file, tmp_path / "without" / "metrics.json")
    evaluate(clip.render, clip, [0, 2], tmp_path / "without", NO_LPIPS)
    with pytest.raises(ValueError, match=r"without/test/frames\.csv: other frames than in .*cannot be compared"):
        merge_without_blendshapes(file, tmp_path / "without" / "metrics.json")
    with pytest.raises(FileNotFoundError, match="absent"):
        merge_without_blendshapes(file, tmp_path / "absent")
    for content, message in [("{", "not JSON"), ("[]", "expected a JSON object, got list"), ("{}", 'under "test"')]:
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(ValueError, match=f"broken.json: .*{message}"):
            merge_without_blendshapes(file, tmp_path / "broken.json")
    (tmp_path / "other.csv").write_text("frame,psnr\n")
    with pytest.raises(ValueError, match=r"other\.csv: expected a first column 'index', got \['frame', 'psnr'\]"):
        score_files.read_csv(tmp_path / "other.csv")


# --- regions -----------------------------------------------------------------------------------------------------


def test_region_masks_are_where_the_mesh_projects() -> None:
    masks = meshes().view(0, CAMERA).region_masks(np.ones((HEIGHT, WIDTH), bool))
    # 1 m away, focal length 100 px: the plate of 20 cm spans 20 px around (20, 24); eyes are above, i.e. lower rows
    assert regions.box(masks["face"]) == (10, 14, 30, 34)
    left, top, right, bottom = regions.box(masks["mouth"]) or (0,) * 4
    assert (left + right) / 2 == pytest.approx(20, abs=1) and top > 24 and bottom <= 34
    eyes = masks["eyes"]
    assert not eyes[:, 19:21].any() and eyes[:, :18].any() and eyes[:, 22:].any()  # each eye has its own outline
    assert not eyes[24:].any()


def test_regions_are_cut_to_the_head_and_hidden_ones_are_empty() -> None:
    head = np.zeros((HEIGHT, WIDTH), bool)
    head[:, :20] = True
    masks = meshes().view(0, CAMERA).region_masks(head)
    assert masks["face"].any() and not masks["face"][:, 20:].any()
    back = View(np.diag([-1.0, -1.0, 1.0]), np.array([0.0, 0.0, 1.0]), CAMERA.K)
    behind = meshes().view(0, back).region_masks(~head | head)
    assert behind["face"].any() and not behind["eyes"].any() and not behind["mouth"].any()


def test_the_overlay_paints_the_mesh_and_nothing_else() -> None:
    view = meshes().view(0, CAMERA)
    image = np.full((HEIGHT, WIDTH, 3), 10, np.uint8)
    painted = view.overlay(image, opacity=1.0)
    hit = view.buffers.triangle >= 0
    assert (painted[~hit] == 10).all()
    assert np.abs(painted[hit].astype(float) - regions.MESH_COLOR).max() <= 1  # facing the camera: full brightness
    assert (image == 10).all()


def test_box_of_an_empty_mask_is_none() -> None:
    assert regions.box(np.zeros((3, 4), bool)) is None
