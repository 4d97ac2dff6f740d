"""The evaluation of one set of frames: render, score, draw and film them in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation import pictures, scores
from evaluation.regions import REGIONS, MeshView, PosedMeshes, ViewCamera, box
from utils.atomic import write_json
from utils.images import Size, letterbox, write_image
from utils.metrics import DEFINITIONS, HEAD_ALPHA, on_black
from utils.score_files import Row, read_json, summarize, write_csv

if TYPE_CHECKING:
    from utils.video import AddFrame

Groups = Mapping[str, Mapping[str, Sequence[int]]]
NO_GROUPS: Groups = {}
Render = Callable[[Sequence[int]], tuple[Tensor, Tensor]]


class FrameSource(Protocol):
    """Ground truth and cameras by frame index."""

    def rgba(self, index: int) -> NDArray[np.uint8]: ...
    def camera(self, index: int) -> ViewCamera: ...


@dataclass(frozen=True)
class EvaluationSettings:
    """How to score and what to draw.

    batch: frames rendered together. lpips: networks to use. lpips_folder: convolution weights, see `load_lpips`;
    lpips_every: LPIPS on every n-th frame only (VGG16 takes seconds a frame on a CPU). background: behind the head in
    pictures and video; scores are always on black. pictures: side-by-side pictures and predictions of all frames, or of
    the selected ones and some evenly spread ones (which two runs to be compared have in common); selected: how many
    best, median and worst frames (by PSNR) the report shows. fps: of the video.
    """

    batch: int = 8
    lpips: tuple[Literal["alex", "vgg"], ...] = ("alex", "vgg")
    lpips_folder: Path | None = None
    lpips_every: int = 1
    background: Literal["black", "white"] = "black"
    pictures: Literal["all", "selected"] = "all"
    selected: int = 3
    fps: float = 25.0
    video: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "lpips_every", "selected"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Result:
    """One rendered frame on the CPU: images float32 [H,W,3] on black in [0,1], alphas [H,W]."""

    index: int
    target: NDArray[np.float32]
    target_alpha: NDArray[np.float32]
    prediction: NDArray[np.float32]
    alpha: NDArray[np.float32]
    view: MeshView | None
    row: Row
    boxes: dict[str, tuple[int, int, int, int] | None]


def evaluate(
    render: Render,
    source: FrameSource,
    indices: Sequence[int],
    run: Path,
    settings: EvaluationSettings,
    meshes: PosedMeshes | None = None,
    split: str = "test",
    groups: Groups = NO_GROUPS,
) -> dict[str, Any]:
    """Score the frames `indices` and write everything about them below `run`.

    Args:
        render: frame indices -> image float [B,3,H,W] on black, alpha [B,H,W], on any device.
        source: serves the same frames' ground truth, uint8 RGBA [H,W,4] of the same size, and cameras.
        meshes: for overlays and the face, eyes and mouth scores; these are null without it.
        split: names the folder and the block of metrics.json.
        groups: some of the frames that are averaged apart as well: kind -> name -> frames.

    Returns:
        The content of run/metrics.json, which is written with {split: block of `summarize`, "definitions"}; the
        block holds each kind of group as {name: block of its frames}. Blocks of other
        splits that it already holds are kept, a comparison is not. In run/split: frames.csv, evaluation.json (timing,
        selection, picture layout), prediction/*.png, side_by_side/*.jpg, video.mp4.

    Raises:
        ValueError: no frames, ground truth and prediction of different sizes, or NaN in a rendered image.
        utils.atomic.WriteError: the disk refused.
    """
    if not len(indices):
        raise ValueError(f"{split}: no frames to evaluate")
    folder, started = run / split, time.perf_counter()
    evaluation = _Evaluation(render, source, settings, meshes, _load_perceptual(source, indices, settings))
    rows: dict[int, Row] = {}
    boxes: dict[int, Any] = {}
    with ExitStack() as stack:
        film = stack.enter_context(_video(folder / "video.mp4", settings.fps)) if settings.video else None
        for result in tqdm(evaluation.frames(indices), f"evaluating {split}", len(indices), unit="frame"):
            rows[result.index], boxes[result.index] = result.row, result.boxes
            _draw(folder, result, settings.background, film, save=settings.pictures == "all")
    selection = pictures.select_frames({index: row["psnr"] for index, row in rows.items()}, settings.selected)
    if settings.pictures == "selected":
        chosen = {index for group in selection.values() for index in group}
        chosen |= set(pictures.spread_frames(indices, 2 * settings.selected))
        for result in evaluation.frames(sorted(chosen), scored=False):
            _draw(folder, result, settings.background, None, save=True)
    else:
        chosen = set(indices)
    _remove_stale(folder, chosen, settings.video)
    write_csv(folder / "frames.csv", rows)
    record = {"seconds": round(time.perf_counter() - started, 2), "selection": selection, "boxes": boxes}
    write_json(folder / "evaluation.json", record | evaluation.describe())
    block = evaluation.summarize(rows)
    for kind, parts in groups.items():
        block[kind] = {name: evaluation.summarize({index: rows[index] for index in part})
                       for name, part in parts.items()}
    return _write_metrics(run / "metrics.json", split, block)


class _Evaluation:
    """Renders and scores frames in batches; remembers how long rendering took."""

    def __init__(
        self,
        render: Render,
        source: FrameSource,
        settings: EvaluationSettings,
        meshes: PosedMeshes | None,
        perceptual: scores.PerceptualMetrics,
    ) -> None:
        self.render, self.source, self.settings, self.meshes = render, source, settings, meshes
        self.perceptual = perceptual
        self.device = torch.device("cpu")
        self.seconds_per_frame: list[float] = []

    def frames(self, indices: Sequence[int], scored: bool = True) -> Iterator[_Result]:
        """Results in order; at most one batch of them, of one size, is in memory. Rows are empty unless `scored`."""
        start = 0
        while start < len(indices):
            stop = start + 1
            size = self._size(indices[start])
            while stop < min(start + self.settings.batch, len(indices)) and self._size(indices[stop]) == size:
                stop += 1
            yield from self._batch(list(indices[start:stop]), start if scored else None)
            start = stop

    def _size(self, index: int) -> Size:
        camera = self.source.camera(index)
        return camera.width, camera.height

    def summarize(self, rows: dict[int, Row]) -> dict[str, Any]:
        """The frames' block of metrics.json."""
        known = list(self.meshes.parts) if self.meshes else []
        why = "no head mesh was given" if self.meshes is None else "the head model does not know this region"
        reasons = dict(self.perceptual.reasons) | {name: why for name in REGIONS if name not in known}
        return summarize(rows, reasons, ["head", *known])

    def describe(self) -> dict[str, Any]:
        """What evaluation.json says about speed and about how the pictures are laid out."""
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            # The median over batches: the first one pays for warming up.
            "render_ms_per_frame": round(1000 * float(np.median(self.seconds_per_frame)), 3),
            "panels": list(pictures.PANELS if self.meshes else pictures.PANELS[:-1]),
            "caption_height": pictures.CAPTION_HEIGHT,
            "scale_width": pictures.SCALE_WIDTH,
            "error_limit": pictures.ERROR_LIMIT,
            "error_colors": pictures.css_colors(),
            "background": self.settings.background,
        }

    @torch.no_grad()
    def _batch(self, indices: list[int], position: int | None) -> Iterator[_Result]:
        image, alpha = self._timed_render(indices)
        rgba = torch.from_numpy(np.stack([self._ground_truth(index, image) for index in indices]))
        _check_finite(image, indices)
        target, prediction = on_black(rgba, image)
        head = rgba[..., 3] >= HEAD_ALPHA
        views = [self.meshes.view(index, self.source.camera(index)) if self.meshes else None for index in indices]
        regions = [view.region_masks(head[i].numpy()) if view else {} for i, view in enumerate(views)]
        masks = {"head": head} | {name: torch.from_numpy(np.stack([r[name] for r in regions])) for name in regions[0]}
        rows = self._score(prediction, target, {name: mask.to(image.device) for name, mask in masks.items()}, position)
        pictures_of = [tensor.permute(0, 2, 3, 1).cpu().numpy() for tensor in (target, prediction)]
        target_alpha, alphas = (rgba[..., 3].float() / 255).numpy(), alpha.float().clamp(0, 1).cpu().numpy()
        for i, index in enumerate(indices):
            boxes = {name: box(mask) for name, mask in regions[i].items()}
            shown = pictures_of[0][i], target_alpha[i], pictures_of[1][i], alphas[i]
            yield _Result(index, *shown, view=views[i], row=rows[i], boxes=boxes)

    def _timed_render(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        started = time.perf_counter()
        image, alpha = self.render(indices)
        if image.is_cuda:  # kernels run asynchronously: without waiting, only their launch would be measured
            torch.cuda.synchronize(image.device)
        self.seconds_per_frame.append((time.perf_counter() - started) / len(indices))
        if image.device != self.device:
            self.device, self.perceptual = image.device, self.perceptual.to(image.device)
        return image, alpha

    def _ground_truth(self, index: int, image: Tensor) -> NDArray[np.uint8]:
        rgba = self.source.rgba(index)
        expected = (*image.shape[-2:], 4)
        if rgba.shape != expected:
            raise ValueError(f"frame {index}: expected ground truth {list(expected)}, got {list(rgba.shape)}")
        return rgba

    def _score(self, prediction: Tensor, target: Tensor, masks: dict[str, Tensor], position: int | None) -> list[Row]:
        """Scores of a batch whose first frame is the `position`-th; None: not wanted."""
        if position is None:
            return [{} for _ in range(len(prediction))]
        rows = scores.measure(prediction, target, masks)
        chosen = [i for i in range(len(rows)) if (position + i) % self.settings.lpips_every == 0]
        if chosen and self.perceptual.models:
            some = {name: mask[chosen] for name, mask in masks.items()}
            perceptual = scores.measure_perceptual(self.perceptual, prediction[chosen], target[chosen], some)
            for i, row in zip(chosen, perceptual, strict=True):
                rows[i] |= row
        return rows


def _check_finite(image: Tensor, indices: list[int]) -> None:
    broken = (~image.isfinite()).flatten(1).sum(dim=1).tolist()
    for index, count in zip(indices, broken, strict=True):
        if count:
            raise ValueError(f"frame {index}: {count} numbers of the rendered image are not finite")


def _load_perceptual(source: FrameSource, indices: Sequence[int],
                     settings: EvaluationSettings) -> scores.PerceptualMetrics:
    cameras = map(source.camera, indices)
    smallest = min(min(camera.width, camera.height) for camera in cameras)
    return scores.PerceptualMetrics.load(settings.lpips_folder, settings.lpips, smallest)


def _draw(folder: Path, result: _Result, background: str, film: AddFrame | None, save: bool) -> None:
    """Compose the frame's pictures; add them to the video, save them, or both."""
    if film is None and not save:
        return
    shade = 1.0 if background == "white" else 0.0
    truth = pictures.over(result.target, result.target_alpha, shade)
    prediction = pictures.over(result.prediction, result.alpha, shade)
    panels = [truth, prediction, pictures.error_map(result.prediction, result.target)]
    panels += [result.view.overlay(truth)] if result.view else []
    joined = pictures.side_by_side(panels, result.index)
    if film is not None:
        film(pictures.for_video(joined))
    if save:
        write_image(folder / "prediction" / f"{result.index:05d}.png", prediction)
        write_image(folder / "side_by_side" / f"{result.index:05d}.jpg", joined, quality=92)


def _remove_stale(folder: Path, written: set[int], video: bool) -> None:
    """Remove what an earlier evaluation left and this one did not replace: it shows another state of the avatar."""
    for path in [*folder.glob("prediction/*.png"), *folder.glob("side_by_side/*.jpg")]:
        if path.stem not in {f"{index:05d}" for index in written}:
            path.unlink()
    if not video:
        (folder / "video.mp4").unlink(missing_ok=True)


@contextmanager
def _video(path: Path, fps: float) -> Iterator[AddFrame]:
    """A film of pictures of any size: all are fitted into the first one's."""
    from utils.video import write_video  # here, so that scores need no PyAV

    size: list[Size] = []
    with write_video(path, fps) as add:

        def fit(picture: NDArray[np.uint8]) -> None:
            if not size:
                size.append((picture.shape[1], picture.shape[0]))
            add(letterbox(picture, size[0]))

        yield fit


def _write_metrics(path: Path, split: str, block: dict[str, Any]) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    if split == "test":  # a comparison merged earlier was with other scores; it has to be merged anew
        content = {name: value for name, value in content.items() if not name.startswith("without_blendshapes")}
    content = {name: value for name, value in content.items() if not name.startswith(f"{split}_")}  # of that avatar
    content |= {split: block, "definitions": DEFINITIONS}
    write_json(path, content)
    return content
