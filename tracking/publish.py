"""The last stage of track.py: data set, preview, plot and report; then all of it takes its place at once."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracking.footage import ByteImage
from tracking.landmarks import Track
from tracking.layout import write_data_set, write_rgba
from tracking.matting import foreground_colours
from tracking.mesh_view import MeshView
from tracking.outline import reach_out
from tracking.preview import MAX_PANEL, preview_frame, write_error_plot
from tracking.progress import counted
from tracking.run import Finish, Found, Outcome, Run
from tracking.verdict import Quality, Verdict, judge, measure
from tracking.workspace import MARK, Workspace, plain, save_table
from utils.parallel import ordered

VERSION = 1      # of tracking.json
PACKAGES = ("av", "mediapipe", "numpy", "opencv-python-headless", "scipy", "torch")


def write_all(run: Run, workspace: Workspace, finish: Finish | None, found: Found) -> Outcome:
    """Stage 6: data set, preview, plot and tracking.json; then all of it takes its place at once."""
    folder = workspace.data
    with run.stage("write"):
        write_data_set(folder, run.head, head_name(run.settings.head), found.fit, found.crop.size)
        quality, verdict = write_camera(run, found, folder)
        if finish is not None:
            finish(folder)
    save_table(folder / MARK, report(run, found, quality, verdict))
    workspace.publish()
    return Outcome(run.settings.output, len(found.fit), len(run.dropped), verdict, run.seconds)


def write_camera(run: Run, found: Found, folder: Path) -> tuple[Quality, Verdict]:
    """Pictures of one camera, and its preview and plot into `folder`."""
    from utils.video import write_video  # here, so that what comes before needs no PyAV

    track, fit = found.track, found.fit
    view = MeshView(run.head, fit, found.crop.size, min(found.crop.size, MAX_PANEL))
    with write_video(folder / "preview.mp4", fps=_rate(track), crf=22, preset="ultrafast") as show:
        matte = _write_images(run, found, view, show)
    quality = measure(track, fit, found.pictures.sharpness, matte)
    without_face = sum(1 for d in run.dropped if "face" in d.reason)
    verdict = judge(quality, track.blendshapes, found.crop.size, len(run.clock), without_face, run.notes)
    title = f"{run.footage.path.name}: {verdict.word}, {len(fit)} pictures"
    write_error_plot(folder / "tracking_error.png", track.time, quality, run.dropped, title)
    return quality, verdict


def _write_images(run: Run, found: Found, view: MeshView, show: Callable[[ByteImage], None]) -> np.ndarray:
    """images/, images.HQ/ and the preview; returns [T,4], see `verdict.measure`."""
    pictures, alpha, observations = found.pictures, found.alpha, found.observations

    def write(index: int) -> tuple[ByteImage, tuple[float, ...]]:
        rgb, matte, drawing = pictures.rgb.read(index), alpha.read(index), view.draw(index)
        # The background that shows through hair is taken out of its colour; with given alpha that was done or was not.
        colours = (lambda image, _: image) if pictures.given is not None else foreground_colours
        write_rgba(run.workspace.data / "images", index, colours(rgb, matte), matte)
        if pictures.full is not None:
            full = pictures.full.read(index)
            large = np.asarray(cv2.resize(matte, full.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
            write_rgba(run.workspace.data / "images.HQ", index, colours(full, large), large)
        opaque = cv2.resize(matte, (view.size, view.size), interpolation=cv2.INTER_AREA) >= 128
        on_head = opaque[drawing.head].mean() if drawing.head.any() else 0.0
        share = opaque.mean(), on_head, *reach_out(drawing, opaque)
        return preview_frame(drawing, rgb, matte, observations.landmarks[index]), share

    count, shares = len(view.fit), []
    for frame, share in counted(ordered(write, count), "Writing the pictures", count):
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
