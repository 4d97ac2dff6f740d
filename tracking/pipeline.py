"""The road from footage to data set, stage by stage; every stage leaves its result in the workspace."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from arguments.track_settings import TrackSettings
from flame import Head, load_head
from tracking import closer_look
from tracking.crop import Crop, choose_crop, observe
from tracking.detector import CloseDetector, MediaPipeDetector
from tracking.footage import ByteImage, Dropped, Footage, Listed, Span, without_repeats
from tracking.landmark_fit import FitSettings, fit_clip
from tracking.landmarks import NoFaceError, Track, follow_face, look_for_faces
from tracking.layout import write_data_set, write_rgba
from tracking.matting import MatteSettings, foreground_colours, matte_clip, method_note
from tracking.mesh_view import MeshView
from tracking.outline import reach_out
from tracking.photometric_fit import refine_clip
from tracking.preview import MAX_PANEL, preview_frame, write_error_plot
from tracking.records import Fit, Observations, load_record, save_record
from tracking.verdict import Quality, Verdict, judge, measure, sharpness
from tracking.video import open_footage
from tracking.workspace import MARK, PictureStore, Workspace, load_table, plain, save_table
from utils.parallel import ordered
from utils.video import write_video

MIN_FRAMES = 10  # fewer tell nothing about a person's expressions, nor about the focal length
VERSION = 1      # of tracking.json
PACKAGES = ("av", "mediapipe", "numpy", "opencv-python-headless", "scipy", "torch")
NOT_DECIDING = ("resume", "overwrite", "output", "device")  # settings that change no result


class TooFewFramesError(ValueError):
    """What is left of the footage is too short; the message says what was left and why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run, for the user: the folder, kept and left-out pictures, the verdict, seconds per stage."""

    folder: Path
    frames: int
    dropped: int
    verdict: Verdict
    seconds: dict[str, float]


@dataclass(eq=False)
class Run:
    """One run of track.py: what its stages share.

    dropped, notes, looked_at: what the first stage says about the footage. detector: None takes MediaPipe's.
    """

    settings: TrackSettings
    device: torch.device
    footage: Footage
    head: Head
    workspace: Workspace
    detector: CloseDetector | None = None
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_at: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Take the time of a stage."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 2)


def track_video(settings: TrackSettings, device: torch.device, detector: CloseDetector | None = None) -> Outcome:
    """Write the data set that `settings` ask for. detector: instead of MediaPipe's (tests).

    An interrupted run leaves its stage results beside the output for `--resume`; a run refused for its footage leaves
    nothing.

    Raises ValueError, OSError or RuntimeError (their own subclasses) with a sentence for the user.
    """
    Span(settings.start, settings.end, settings.fps)  # flags that make no sense are told before anything is read
    footage = open_footage(settings.video, settings.fps)
    head = load_head(settings.head)
    workspace = Workspace(settings.output, _job(settings), settings.resume, settings.overwrite)
    run = Run(settings, device, footage, head, workspace, detector)
    try:
        track = find_face(run)
    except Exception:  # nothing worth resuming yet; an interruption by the user is no Exception
        workspace.discard()
        raise
    crop = choose_crop(track, settings.size)
    observations = observe(track, crop)
    pictures = cut_pictures(run, track, crop)
    fit = refine_by_pictures(run, fit_landmarks(run, observations), observations, pictures)
    alpha = cut_out_head(run, fit, pictures, crop, track)
    return write_all(run, track, crop, observations, fit, pictures, alpha)


def find_face(run: Run) -> Track:
    """Stage 1: the followed face in every picture that is kept.

    Raises:
        NoFaceError: no face was found.
        TooFewFramesError: the face was found in fewer than MIN_FRAMES pictures.
        tracking.footage.FootageError: nothing could be read.
    """
    record, table = run.workspace.file("track.npz"), run.workspace.file("track.json")
    if record.is_file() and table.is_file():
        saved = load_table(table)
        run.dropped, run.notes = [Dropped(**item) for item in saved["dropped"]], saved["notes"]
        run.looked_at = saved["looked_at"]
        return load_record(record, Track)
    with run.stage("landmarks"):
        track = _detect(run)
    save_record(record, track)
    save_table(table, {"dropped": [asdict(d) for d in run.dropped], "notes": run.notes, "looked_at": run.looked_at})
    return track


def _detect(run: Run) -> Track:
    settings, repeats = run.settings, list[Dropped]()
    pictures = without_repeats(run.footage.pictures(Span(settings.start, settings.end, settings.fps)), repeats)
    with nullcontext(run.detector) if run.detector else MediaPipeDetector(settings.face_model) as detector:
        with tqdm(total=run.footage.expected, desc="Finding the face", unit="picture") as bar:
            search = look_for_faces(pictures, detector, bar.update)
            bar.total = bar.n
        run.notes += run.footage.notes
        near = closer_look.wanted(search)
        if near:
            again = tqdm(run.footage.pictures(Listed(frozenset(near))), "Looking closer", len(near), unit="picture")
            closer_look.look_again(search, near, again, detector.detect_alone)
    run.looked_at = len(search.sightings)
    if not search.sightings:
        raise TooFewFramesError(f"{settings.video}: no picture lies between --start {settings.start} and --end "
                                f"{settings.end} seconds")
    try:
        track = follow_face(search, settings.shot, run.dropped, run.notes)
    except NoFaceError as error:
        raise NoFaceError(f"{settings.video}: {error}") from None
    run.dropped += repeats
    run.dropped.sort(key=lambda d: d.index)
    if len(track) < MIN_FRAMES:
        raise TooFewFramesError(
            f"{settings.video}: only {len(track)} usable pictures of {run.looked_at + len(repeats)} looked at "
            f"({_reasons(run.dropped) or 'nothing was left out'}); at least {MIN_FRAMES} are needed, and 10 seconds or "
            "more make a good avatar")
    return track


def _reasons(dropped: list[Dropped]) -> str:
    """How often each reason occurs, in words."""
    counts: dict[str, int] = {}
    for item in dropped:
        reason = "repeated pictures" if item.reason.startswith("repeats") else item.reason
        counts[reason] = counts.get(reason, 0) + 1
    return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


@dataclass(frozen=True)
class Pictures:
    """The crops on disk: rgb; given, the footage's own alpha, or None; full, the crops at the footage's resolution."""

    rgb: PictureStore
    given: PictureStore | None
    full: PictureStore | None
    sharpness: np.ndarray


def cut_pictures(run: Run, track: Track, crop: Crop) -> Pictures:
    """Stage 2: read the footage again and keep the crops of the followed face."""
    table = run.workspace.file("pictures.json")
    stores = {name: PictureStore(run.workspace.file(name)) for name in ("rgb", "given", "full")}
    if not table.is_file():
        with run.stage("crop"):
            sharp, has_alpha = _cut(run, track, crop, stores)
        save_table(table, {"sharpness": sharp, "has_alpha": has_alpha})
    saved = load_table(table)
    return Pictures(stores["rgb"], stores["given"] if saved["has_alpha"] else None,
                    stores["full"] if run.settings.hr else None, np.array(saved["sharpness"], np.float32))


def _cut(run: Run, track: Track, crop: Crop, stores: dict[str, PictureStore]) -> tuple[list[float], bool]:
    full = crop.resized(max(crop.side, crop.size))
    if run.settings.hr and crop.side < 1.2 * crop.size:
        run.notes.append(f"--hr: the head fills only {crop.side} pixels of the footage, so images.HQ holds hardly more "
                         f"than images ({crop.size}); film larger, or choose a smaller --size")
    points = crop.points(track.points[:, :, :2])
    wanted = Listed(frozenset(track.index.tolist()))
    sharp, has_alpha = [], False
    pictures = run.footage.pictures(wanted)
    for number, picture in enumerate(tqdm(pictures, "Cutting the pictures", len(track), unit="picture")):
        rgb = crop.cut(picture.rgb)
        stores["rgb"].write(number, rgb)
        sharp.append(sharpness(rgb, points[number]))
        if picture.alpha is not None:
            stores["given"].write(number, crop.cut(picture.alpha))
            has_alpha |= bool((picture.alpha < 255).any())  # opaque everywhere says nothing about the head
        if run.settings.hr:
            stores["full"].write(number, full.cut(picture.rgb))
        if number + 1 == len(track):
            break
    return sharp, has_alpha


def fit_landmarks(run: Run, observations: Observations) -> Fit:
    """Stage 3: the head that meets the landmarks of the whole clip."""
    path = run.workspace.file("fit.npz")
    if not path.is_file():
        with run.stage("fit"), tqdm(desc="Fitting the head", unit="step") as bar:
            save_record(path, fit_clip(run.head, observations, FitSettings(), run.device, _shown_on(bar)))
    return load_record(path, Fit)


def refine_by_pictures(run: Run, fit: Fit, observations: Observations, pictures: Pictures) -> Fit:
    """Stage 4: the fit made to follow the skin from picture to picture, finer than landmarks do."""
    if not run.settings.refine:
        return fit
    path = run.workspace.file("refined.npz")
    if not path.is_file():
        with run.stage("refine"), tqdm(desc="Refining the fit", unit="picture") as bar:
            refined = refine_clip(run.head, fit, observations, pictures.rgb.rgb, None, run.device, _shown_on(bar))
        save_record(path, refined)
    return load_record(path, Fit)


def cut_out_head(run: Run, fit: Fit, pictures: Pictures, crop: Crop, track: Track) -> PictureStore:
    """Stage 5: the alpha of head and neck; footage that has alpha keeps it."""
    store = PictureStore(run.workspace.file("alpha"))
    if store.complete:
        return store
    inside = crop.inside(track.width, track.height)
    with run.stage("matte"):
        if pictures.given is not None:
            mattes: Iterator[ByteImage] = map(pictures.given.grey, range(len(fit)))
            run.notes.append("the footage has its own alpha channel, which was kept")
        else:
            view = MeshView(run.head, fit, crop.size)
            settings = MatteSettings(run.settings.matting_model, run.settings.parsing_model)
            mattes = matte_clip(pictures.rgb.rgb, len(fit), view.silhouette, settings, None)
            run.notes.append(method_note(run.settings.matting_model))
        for index, matte in enumerate(tqdm(mattes, "Cutting out the head", len(fit), unit="picture")):
            store.write(index, np.minimum(matte, inside))
    store.finish()
    return store


def write_all(
    run: Run, track: Track, crop: Crop, observations: Observations, fit: Fit, pictures: Pictures, alpha: PictureStore
) -> Outcome:
    """Stage 6: data set, preview, plot and tracking.json; then all of it takes its place at once."""
    folder = run.workspace.data
    with run.stage("write"):
        write_data_set(folder, run.head, _head_name(run.settings.head), fit, crop.size)
        view = MeshView(run.head, fit, crop.size, min(crop.size, MAX_PANEL))
        with write_video(folder / "preview.mp4", fps=_rate(track), crf=20) as show:
            matte = _write_images(run, pictures, alpha, view, observations, show)
        quality = measure(track, fit, pictures.sharpness, matte)
        without_face = sum(1 for d in run.dropped if "face" in d.reason)
        verdict = judge(quality, track.blendshapes, crop.size, run.looked_at, without_face, run.notes)
        title = f"{run.footage.path.name}: {verdict.word}, {len(fit)} pictures"
        write_error_plot(folder / "tracking_error.png", track.time, quality, run.dropped, title)
    save_table(folder / MARK, _report(run, track, crop, fit, quality, verdict))
    run.workspace.publish()
    return Outcome(run.settings.output, len(fit), len(run.dropped), verdict, run.seconds)


def _write_images(
    run: Run, pictures: Pictures, alpha: PictureStore, view: MeshView, observations: Observations,
    show: Callable[[ByteImage], None],
) -> np.ndarray:
    """images/, images.HQ/ and the preview; returns [T,4], see `verdict.measure`."""
    def write(index: int) -> tuple[ByteImage, tuple[float, ...]]:
        rgb, matte, drawing = pictures.rgb.rgb(index), alpha.grey(index), view.draw(index)
        # The background that shows through hair is taken out of its colour; with given alpha that was done or was not.
        colours = (lambda image, _: image) if pictures.given is not None else foreground_colours
        write_rgba(run.workspace.data / "images", index, colours(rgb, matte), matte)
        if pictures.full is not None:
            full = pictures.full.rgb(index)
            large = np.asarray(cv2.resize(matte, full.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
            write_rgba(run.workspace.data / "images.HQ", index, colours(full, large), large)
        opaque = cv2.resize(matte, (view.size, view.size), interpolation=cv2.INTER_AREA) >= 128
        on_head = opaque[drawing.head].mean() if drawing.head.any() else 0.0
        share = opaque.mean(), on_head, *reach_out(drawing, opaque)
        return preview_frame(drawing, rgb, matte, observations.landmarks[index]), share

    count, shares = len(view.fit), []
    for frame, share in tqdm(ordered(write, count), "Writing the pictures", count, unit="picture"):
        show(frame)
        shares.append(share)
    return np.array(shares, np.float32)


def _report(run: Run, track: Track, crop: Crop, fit: Fit, quality: Quality, verdict: Verdict) -> dict[str, Any]:
    """The contents of tracking.json."""
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


def _job(settings: TrackSettings) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that resumes it."""
    state = settings.video.stat()
    footage = {"video": settings.video.resolve(), "bytes": state.st_size, "modified": state.st_mtime_ns}
    deciding = {key: value for key, value in asdict(settings).items() if key not in NOT_DECIDING}
    job = plain({**deciding, **footage, "version": VERSION})
    assert isinstance(job, dict)
    return job


def _head_name(name: str) -> str:
    """What head.json says: a name that train.py knows, or the path of the user's file."""
    return name if name in ("open", "flame") else str(Path(name).resolve())


def _rate(track: Track) -> float:
    """Pictures a second of the preview: those of the footage, as far as it is even."""
    steps = np.diff(track.time)
    return float(np.clip(1 / max(np.median(steps), 1e-3), 1, 60)) if len(steps) else 25.0


def _shown_on(bar: tqdm) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
