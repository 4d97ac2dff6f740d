"""Several videos of one time: one head, one motion, several cameras that stand still to one another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arguments.track_settings import TrackSettings
from flame import load_head
from tracking.bundle import Progress
from tracking.crop import choose_crop, observe
from tracking.detector import CloseDetector
from tracking.footage import Footage, Span
from tracking.job import job_of
from tracking.landmark_fit import FitSettings, fit_views
from tracking.landmarks import Track
from tracking.layout import write_records, write_still
from tracking.lens import Lens, read_rig, straight
from tracking.look import MIN_FRAMES, TooFewFramesError, find_face
from tracking.photometric_fit import refine_views
from tracking.pipeline import cut_out_head, cut_pictures, lens_of, shown_on
from tracking.progress import progress_bar
from tracking.publish import head_name, report, write_camera
from tracking.records import Fit, Observations, Rig, load_record, save_record
from tracking.run import Finish, Found, Means, Outcome, Pictures, Run
from tracking.verdict import WORDS, Verdict
from tracking.video import open_footage
from tracking.workspace import MARK, Workspace, save_table

RARELY = 0.5  # share of the moments in which a camera sees the face, below which the user should know


def track_cameras(
    settings: TrackSettings, device: torch.device, detector: CloseDetector | None = None, finish: Finish | None = None
) -> Outcome:
    """Write the data set that several cameras make; see `pipeline.track_video`.

    All videos begin at the same moment; pictures that are nearest in time belong together, and what one video has more
    at its end is left out. A moment is kept where at least one camera sees the face.

    Raises ValueError, OSError or RuntimeError (their own subclasses) with a sentence for the user.
    """
    Span(settings.start, settings.end, settings.fps)
    paths = (settings.video, *settings.camera)
    names = tuple(path.stem for path in paths)
    lenses = read_rig(settings.calibration, names) if settings.calibration is not None else None
    footage = [_footage(path, settings, lenses[i] if lenses else None) for i, path in enumerate(paths)]
    means = Means(device, load_head(settings.head)).at_hand()
    workspace = Workspace(settings.output, job_of(settings), settings.resume, settings.overwrite)
    shelf = workspace.data / "cameras"
    alone = [replace(settings, video=path, camera=(), calibration=None) for path in paths]
    runs = [Run(own, means, film, workspace.shelf(name, shelf / name), detector)
            for own, film, name in zip(alone, footage, names, strict=True)]
    try:
        tracks = find_moments(runs, [find_face(run) for run in runs])
    except Exception:
        workspace.discard()
        raise
    crops = [choose_crop(_only(track, _seen(track)), settings.size) for track in tracks]
    views = [observe(track, crop, lens_of(run, crop)) for run, track, crop in zip(runs, tracks, crops, strict=True)]
    pictures = [cut_pictures(run, track, crop) for run, track, crop in zip(runs, tracks, crops, strict=True)]
    fit, rig = _fit(runs[0], workspace, views, pictures, None if lenses is None else _places(lenses))
    found = []
    for camera, run in enumerate(runs):
        own = fit.seen_by(rig, camera)
        cut_out = cut_out_head(run, own, pictures[camera], crops[camera], tracks[camera])
        found.append(Found(tracks[camera], crops[camera], views[camera], own, pictures[camera], cut_out))
    return _write(runs, workspace, finish, found, rig)


def _footage(path: Path, settings: TrackSettings, lens: Lens | None) -> Footage:
    film = open_footage(path, settings.fps)
    return film if lens is None else straight(film, lens, str(settings.calibration))


def find_moments(runs: Sequence[Run], tracks: Sequence[Track]) -> list[Track]:
    """The track of each camera in all moments in which one of them sees the face; NaN where that camera does not.

    Raises TooFewFramesError where the videos have too few moments in common.
    """
    clocks = [run.clock for run in runs]
    chosen = matching([np.array([time for _, time in clock]) for clock in clocks])
    numbers = [np.array([index for index, _ in clock])[column] for clock, column in zip(clocks, chosen.T, strict=True)]
    seen = [np.isin(number, track.index) for number, track in zip(numbers, tracks, strict=True)]
    kept = np.any(seen, axis=0)
    if kept.sum() < MIN_FRAMES:
        names = ", ".join(run.settings.video.name for run in runs)
        raise TooFewFramesError(f"{names}: only {int(kept.sum())} moments in common that show the face, at least "
                                f"{MIN_FRAMES} are needed; the videos must begin at the same moment")
    for run, sees in zip(runs, seen, strict=True):
        if sees[kept].mean() < RARELY:
            run.notes.append(f"{run.settings.video.name} sees the face in {sees[kept].mean():.0%} of the moments only")
    return [_spread(track, number[kept], np.array([t for _, t in clock])[column][kept])
            for track, number, clock, column in zip(tracks, numbers, clocks, chosen.T, strict=True)]


def matching(times: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """Which pictures belong together: [M,C], row by row the position in each camera's `times` (seconds, ascending).

    To each picture of the camera with the fewest pictures a second the nearest one of every other camera, no picture
    twice, and none further away than half the time between two pictures.
    """
    steps = [float(np.median(np.diff(t))) if len(t) > 1 else np.inf for t in times]
    slowest = int(np.argmax(steps))
    rows: list[list[int]] = []
    for time in times[slowest]:
        row = [int(np.abs(t - time).argmin()) for t in times]
        near = all(abs(t[i] - time) <= 0.51 * steps[slowest] for t, i in zip(times, row, strict=True))
        if near and (not rows or all(new > old for new, old in zip(row, rows[-1], strict=True))):
            rows.append(row)
    return np.array(rows, np.int64).reshape(-1, len(times))


def _spread(track: Track, numbers: NDArray[np.int64], times: NDArray[np.float64]) -> Track:
    """The track with a row for each of these pictures."""
    at = {int(index): row for row, index in enumerate(track.index)}
    rows = np.array([at.get(int(number), -1) for number in numbers])

    def filled(values: NDArray[Any], missing: float) -> NDArray[Any]:
        result = values[rows].copy()
        result[rows < 0] = missing
        return result

    return replace(track, index=numbers, time=times, points=filled(track.points, np.nan),
                   blendshapes=filled(track.blendshapes, 0), pose=filled(track.pose, 0), others=filled(track.others, 0))


def _seen(track: Track) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(track.points).all(axis=(1, 2)))


def _only(track: Track, rows: NDArray[np.bool_]) -> Track:
    return replace(track, **{name: getattr(track, name)[rows]
                             for name in ("index", "time", "points", "blendshapes", "pose", "others")})


def _places(lenses: Sequence[Lens]) -> Rig:
    """Where calibrated cameras stand, from the first of them; K is not looked at."""
    R0, t0 = lenses[0].R, lenses[0].t
    assert R0 is not None and t0 is not None
    R = np.stack([lens.R @ R0.T for lens in lenses if lens.R is not None])
    t = np.stack([lens.t - turn @ t0 for lens, turn in zip(lenses, R, strict=True) if lens.t is not None])
    return Rig(np.zeros((len(R), 3, 3), np.float32), R.astype(np.float32), t.astype(np.float32))


def _fit(
    run: Run, workspace: Workspace, views: Sequence[Observations], pictures: Sequence[Pictures], known: Rig | None
) -> tuple[Fit, Rig]:
    """Stages 3 and 4 for all cameras together."""
    head, device = run.head, run.device
    fit, rig = _stage(run, workspace, "fit",
                      lambda show: fit_views(head, views, known, FitSettings(), device, show))
    if not run.settings.refine:
        return fit, rig
    images = [store.rgb.read for store in pictures]
    return _stage(run, workspace, "refine",
                  lambda show: refine_views(head, fit, rig, views, images, None, device, show, known is None))


def _stage(
    run: Run, workspace: Workspace, name: str, work: Callable[[Progress], tuple[Fit, Rig]]
) -> tuple[Fit, Rig]:
    """What `work` finds, kept for a run that resumes."""
    paths = workspace.file(f"{name}.npz"), workspace.file(f"{name}_rig.npz")
    if not all(path.is_file() for path in paths):
        with run.stage(name), progress_bar(f"All cameras: {name}", None, "step") as bar:
            fit, rig = work(shown_on(bar))
        save_record(paths[0], fit)
        save_record(paths[1], rig)
    return load_record(paths[0], Fit), load_record(paths[1], Rig)


def _write(
    runs: Sequence[Run], workspace: Workspace, finish: Finish | None, found: Sequence[Found], rig: Rig
) -> Outcome:
    """Stage 6: cameras/NAME of each, what they share, and tracking.json."""
    folder, first = workspace.data, runs[0]
    shutil.rmtree(folder, ignore_errors=True)
    reports, verdicts = {}, []
    with first.stage("write"):
        for run, of in zip(runs, found, strict=True):
            write_records(run.workspace.data, of.fit, of.crop.size)
            quality, verdict, _ = write_camera(run, of, run.workspace.data)
            reports[run.workspace.data.name] = report(run, of, quality, verdict)
            verdicts.append(verdict)
        write_still(folder, first.head, head_name(first.settings.head), found[0].fit)
        if finish is not None:
            finish(folder)
    verdict = together([run.settings.video.stem for run in runs], verdicts)
    save_table(folder / MARK, {"version": reports[first.workspace.data.name]["version"], "verdict": asdict(verdict),
                               "rig": {"K": rig.K, "R": rig.R, "t": rig.t}, "cameras": reports})
    workspace.publish()
    seconds: dict[str, float] = {}
    for run in runs:
        seconds |= {name: round(seconds.get(name, 0) + value, 2) for name, value in run.seconds.items()}
    return Outcome(first.settings.output, sum(len(of.fit) for of in found), sum(len(run.dropped) for run in runs),
                   verdict, seconds)


def together(names: Sequence[str], verdicts: Sequence[Verdict]) -> Verdict:
    """The worst word, and every camera's reasons under its name."""
    word = WORDS[max(WORDS.index(verdict.word) for verdict in verdicts)]
    return Verdict(word, tuple(f"{name}: {reason}" for name, verdict in zip(names, verdicts, strict=True)
                               for reason in verdict.reasons))
