"""The last stage of track.py: data set, preview, plot and report; then all of it takes its place at once."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.footage import ByteImage, Dropped
from tracking.job import VERSION
from tracking.landmarks import Track
from tracking.layout import write_data_set, write_rgba
from tracking.matting import cut_at_neck, foreground_colours
from tracking.mesh_view import Drawing, MeshView
from tracking.outline import reach_out
from tracking.preview import preview_frame, write_error_plot
from tracking.progress import counted
from tracking.records import Fit, Floats
from tracking.run import Finish, Found, Outcome, Pictures, Run
from tracking.threads import own_threads_only
from tracking.verdict import Quality, Verdict, judge, measure
from tracking.workers import Workers, abandoned, head_of_jobs, shared_out, wait_shown
from tracking.workspace import MARK, PictureStore, Workspace, plain, save_table
from utils.images import read_rgba, with_alpha
from utils.parallel import in_order, ordered

PACKAGES = ("av", "mediapipe", "numpy", "opencv-python-headless", "scipy", "torch")


def write_all(
    run: Run, workspace: Workspace, finish: Finish | None, found: Found, later: bool, workers: Workers | None = None
) -> Outcome:
    """Stage 6: data set, preview, plot and tracking.json; then all of it takes its place at once.

    later: preview and plot are left to `Outcome.preview`. workers: who then write the pictures.
    """
    folder = workspace.data
    with run.stage("write"):
        write_data_set(folder, run.head, head_name(run.settings.head), found.fit, found.crop.size)
        quality, verdict, preview = write_camera(run, found, folder, later, workers)
        if finish is not None:
            finish(folder)
    save_table(folder / MARK, report(run, found, quality, verdict))
    workspace.publish(keep=later)
    return Outcome(run.settings.output, len(found.fit), len(run.dropped), verdict, run.seconds,
                   partial(preview.write, run.settings.output, workspace.folder) if later else None)


def write_camera(
    run: Run, found: Found, folder: Path, later: bool = False, workers: Workers | None = None
) -> tuple[Quality, Verdict, Preview]:
    """Pictures of one camera, and its preview and plot into `folder`; later: without those two."""
    track, fit = found.track, found.fit
    writing = Writing(run.settings.head, found.crop.size, fit, found.cut_out, found.pictures, run.workspace.data,
                      run.workspace.folder)
    if later and workers is not None:
        matte = _written_beside(writing, workers)
    else:
        view = MeshView.of_stages(run.head, fit, found.crop.size, run.workspace.folder)
        with _video(folder, _rate(track)) if not later else nullcontext() as show:
            matte = _write_images(writing, found, view, show)
    quality = measure(track, fit, found.pictures.sharpness, matte)
    without_face = sum(1 for d in run.dropped if "face" in d.reason)
    verdict = judge(quality, track.blendshapes, found.crop.size, len(run.clock), without_face, run.notes)
    title = f"{run.footage.path.name}: {verdict.word}, {len(fit)} pictures"
    preview = Preview(run.settings.head, found.crop.size, fit, found.observations.landmarks, found.pictures.rgb,
                      track.time, _rate(track), quality, run.dropped, title)
    if not later:
        preview.plot(folder)
    return quality, verdict, preview


def _video(folder: Path, rate: float) -> AbstractContextManager[Callable[[ByteImage], None]]:
    from utils.video import write_video  # here, so that what comes before needs no PyAV

    return write_video(folder / "preview.mp4", fps=rate, crf=22, preset="ultrafast")


@dataclass(frozen=True, eq=False)
class Preview:
    """What preview.mp4 and tracking_error.png of one camera show; goes from one process to another.

    head: its name or file. size: of the pictures. landmarks [T,478,2], time [T] seconds; rate: pictures a second.
    """

    head: str
    size: int
    fit: Fit
    landmarks: Floats
    rgb: PictureStore
    time: NDArray[np.floating]
    rate: float
    quality: Quality
    dropped: list[Dropped]
    title: str

    def write(self, folder: Path, workspace: Path) -> None:
        """Both files into the data set's folder. Then the workspace, which holds the pictures, is of no more use."""
        view = MeshView.of_stages(head_of_jobs(self.head), self.fit, self.size, workspace)

        def frame(index: int) -> ByteImage:
            matte = read_rgba(folder / "images" / f"{index:05d}.png")[..., 3]
            return preview_frame(view.draw(index), self.rgb.read(index), matte, self.landmarks[index])

        try:
            with own_threads_only(), _video(folder, self.rate) as show:
                for picture in ordered(frame, len(self.fit)):
                    show(picture)
            self.plot(folder)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)

    def plot(self, folder: Path) -> None:
        write_error_plot(folder / "tracking_error.png", self.time, self.quality, self.dropped, self.title)


@dataclass(frozen=True, eq=False)
class Writing:
    """What images/ and images.HQ/ of one camera are made from; goes from one process to another.

    head: its name or file. size: of the pictures. folder: of the data set. workspace: of the stages.
    """

    head: str
    size: int
    fit: Fit
    cut_out: PictureStore
    pictures: Pictures
    folder: Path
    workspace: Path

    def write(self, view: MeshView, index: int) -> tuple[Drawing, ByteImage, tuple[float, ...]]:
        """One picture; returns the head drawn over it, its matte, and its row of what `verdict.measure` takes."""
        rgba, drawing, pictures = self.cut_out.read(index), view.draw(index), self.pictures
        # Of given alpha nobody knows what was done to its border: it stays as it is.
        cut = (lambda alpha, _: alpha) if pictures.given is not None else cut_at_neck
        matte = cut(rgba[..., 3], drawing.head)
        write_rgba(self.folder / "images", index, with_alpha(rgba[..., :3], matte))
        if pictures.full is not None:
            full = pictures.full.read(index)
            large = np.asarray(cv2.resize(rgba[..., 3], full.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
            colours = full if pictures.given is not None else foreground_colours(full, large)
            write_rgba(self.folder / "images.HQ", index, with_alpha(colours, cut(large, drawing.head)))
        opaque = cv2.resize(matte, (view.size, view.size), interpolation=cv2.INTER_AREA) >= 128
        on_head = opaque[drawing.head].mean() if drawing.head.any() else 0.0
        return drawing, matte, (opaque.mean(), on_head, *reach_out(drawing, opaque))

    def part(self, frames: range) -> list[tuple[float, ...]]:
        """Write some of the pictures, as a job of `Workers`."""
        view = MeshView.of_stages(head_of_jobs(self.head), self.fit, self.size, self.workspace)
        shares = []
        with own_threads_only():
            for _, _, share in in_order(partial(self.write, view), frames):
                if abandoned():
                    break
                shares.append(share)
        return shares


def _written_beside(writing: Writing, workers: Workers) -> np.ndarray:
    """All pictures, written by other processes; returns [T,4], see `verdict.measure`."""
    count, folder = len(writing.fit), writing.folder / "images"
    workers.start([partial(writing.part, frames) for frames in shared_out(count, workers.count)])
    wait_shown(workers, "Writing the pictures", count, lambda: sum(1 for _ in folder.glob("*.png")))
    return np.array([share for shares in workers.results for share in shares], np.float32)


def _write_images(
    writing: Writing, found: Found, view: MeshView, show: Callable[[ByteImage], None] | None
) -> np.ndarray:
    """All pictures and the preview, if it is to be shown; returns [T,4], see `verdict.measure`."""

    def write(index: int) -> tuple[ByteImage | None, tuple[float, ...]]:
        drawing, matte, share = writing.write(view, index)
        if show is None:
            return None, share
        return preview_frame(drawing, found.pictures.rgb.read(index), matte, found.observations.landmarks[index]), share

    count, shares = len(view.fit), []
    for frame, share in counted(ordered(write, count), "Writing the pictures", count):
        if show is not None and frame is not None:
            show(frame)
        shares.append(share)
    return np.array(shares, np.float32)


def report(run: Run, found: Found, quality: Quality, verdict: Verdict) -> dict[str, Any]:
    """The contents of tracking.json."""
    track, crop, fit = found.track, found.crop, found.fit
    per_frame = {"source_frame": track.index, "time": track.time, **vars(quality)}
    return {
        "version": VERSION, "verdict": asdict(verdict), "frames_kept": len(fit), "frames_dropped": len(run.dropped),
        "landmark_error_mean": fit.landmark_error.mean(), "seconds": run.seconds,
        "source": {"path": run.footage.path, "width": track.width, "height": track.height},
        "crop": asdict(crop), "focal": fit.K[0, 0], "head": run.head.name,
        "settings": plain(asdict(run.settings)), "software": _software(),
        "frames": [{name: values[i] for name, values in per_frame.items()} for i in range(len(fit))],
        "dropped": [asdict(d) for d in run.dropped],
    }


def head_name(name: str) -> str:
    """What head.json says: a name that train.py knows, or the path of the user's file."""
    return name if name in ("open", "flame") else str(Path(name).resolve())


def _rate(track: Track) -> float:
    """Pictures a second of the preview: those of the footage, as far as it is even."""
    steps = np.diff(track.time)
    return float(np.clip(1 / max(np.median(steps), 1e-3), 1, 60)) if len(steps) else 25.0


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
