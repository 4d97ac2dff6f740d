"""The road from footage to data set, stage by stage; every stage leaves its result in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from arguments.track_settings import TrackSettings
from flame import load_head
from tracking import closer_look
from tracking.crop import Crop, choose_crop, observe
from tracking.detection import in_pieces, one_by_one
from tracking.detector import CloseDetector, MediaPipeDetector, heard_stderr
from tracking.footage import ByteImage, Dropped, Footage, Listed, Picture, Span, without_repeats
from tracking.given_alpha import WithAlpha
from tracking.landmark_fit import FitSettings, fit_clip
from tracking.landmarks import NoFaceError, Track, follow_face, look_for_faces
from tracking.lens import Straight, read_lens, straight
from tracking.matte_job import MatteJob
from tracking.matting import Cutter, MatteSettings, by_colours, clip_colours, cut_out, matte_clip, method_note
from tracking.mesh_view import LARGEST, MeshView
from tracking.photometric_fit import refine_clip
from tracking.progress import counted, progress_bar
from tracking.publish import VERSION, write_all
from tracking.records import Fit, Observations, load_record, save_record
from tracking.run import Finish, Found, Outcome, Pictures, Run
from tracking.verdict import sharpness
from tracking.video import open_footage
from tracking.workers import Workers, shared_out, wait_shown
from tracking.workspace import MARK, PictureStore, Workspace, load_table, plain, save_table
from utils.images import with_alpha
from utils.parallel import in_order

MIN_FRAMES = 10  # fewer tell nothing about a person's expressions, nor about the focal length
NOT_DECIDING = ("resume", "overwrite", "output", "device", "train", "train_flags")  # settings that change no result


class TooFewFramesError(ValueError):
    """What is left of the footage is too short; the message says what was left and why."""


def track_video(
    settings: TrackSettings, device: torch.device, detector: CloseDetector | None = None, finish: Finish | None = None,
    later: bool = False, workers: Workers | None = None,
) -> Outcome:
    """Write the data set of one camera that `settings` ask for. detector: instead of MediaPipe's (tests). later: what
    training does not need is left to `Outcome.preview`. workers: make the mattes while `device`, a GPU, refines.

    An interrupted run leaves its stage results beside the output for `--resume`; a run refused for its footage leaves
    nothing.

    Raises ValueError, OSError or RuntimeError (their own subclasses) with a sentence for the user.
    """
    Span(settings.start, settings.end, settings.fps)  # flags that make no sense are told before anything is read
    footage = open_given(settings)
    head = load_head(settings.head)
    workspace = Workspace(settings.output, job_of(settings), settings.resume, settings.overwrite)
    run = Run(settings, device, footage, head, workspace, detector)
    try:
        track = find_face(run)
    except Exception:  # nothing worth resuming yet; an interruption by the user is no Exception
        workspace.discard()
        raise
    crop = choose_crop(track, settings.size)
    observations = observe(track, crop, lens_of(run, crop))
    pictures = cut_pictures(run, track, crop)
    rough = fit_landmarks(run, observations)
    with mattes_meanwhile(run, workers, rough, pictures, crop, track) as cut:
        fit = refine_by_pictures(run, rough, observations, pictures)
        found = cut(fit)
    return write_all(run, workspace, finish, Found(track, crop, observations, fit, pictures, found), later, workers)


def open_given(settings: TrackSettings) -> Footage:
    """The footage of one camera, with mattes and without the distortion of its lens where those are given."""
    footage = open_footage(settings.video, settings.fps)
    if settings.alpha is not None:
        footage = WithAlpha(footage, open_footage(settings.alpha, settings.fps))
    lens = settings.intrinsics
    return footage if lens is None else straight(footage, read_lens(lens), str(lens))


def lens_of(run: Run, crop: Crop) -> tuple[float, tuple[float, float]] | tuple[None, None]:
    """Focal length and principal point of the crop where the lens is known."""
    lens = run.footage.lens if isinstance(run.footage, Straight) else None
    return (None, None) if lens is None else lens.of_crop(crop)


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
        run.clock = [(index, time) for index, time in saved["clock"]]
        return load_record(record, Track)
    with run.stage("landmarks"):
        track = _detect(run)
    save_record(record, track)
    save_table(table, {"dropped": [asdict(d) for d in run.dropped], "notes": run.notes, "clock": run.clock})
    return track


def _detect(run: Run) -> Track:
    settings, repeats = run.settings, list[Dropped]()
    pictures = without_repeats(run.kept.pictures(Span(settings.start, settings.end, settings.fps)), repeats)
    with ExitStack() as stack:
        words = stack.enter_context(heard_stderr())
        bar = stack.enter_context(progress_bar("Finding the face", run.footage.expected, file=words))
        if run.detector is not None:
            detector, seen = run.detector, one_by_one(pictures, run.detector, bar.update)
        else:
            detector = mediapipe = stack.enter_context(MediaPipeDetector(settings.face_model))
            seen = in_pieces(pictures, mediapipe.another, bar.update)
        search = look_for_faces(seen)
        bar.total = bar.n
        run.notes += run.footage.notes
        near = closer_look.wanted(search)
        if near:
            again = counted(run.kept.pictures(Listed(frozenset(near))), "Looking closer", len(near), words)
            closer_look.look_again(search, near, again, detector.detect_alone)
    run.clock = [(sighting.index, sighting.time) for sighting in search.sightings]
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
            f"{settings.video}: only {len(track)} usable pictures of {len(run.clock) + len(repeats)} looked at "
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

    def cut(numbered: tuple[int, Picture]) -> tuple[float, bool]:
        number, picture = numbered
        rgb = crop.cut(picture.rgb)
        stores["rgb"].write(number, rgb)
        if picture.alpha is not None:
            stores["given"].write(number, crop.cut(picture.alpha))
        if run.settings.hr:
            stores["full"].write(number, full.cut(picture.rgb))
        # opaque everywhere says nothing about the head
        return sharpness(rgb, points[number]), picture.alpha is not None and bool((picture.alpha < 255).any())

    pictures = islice(run.kept.pictures(Listed(frozenset(track.index.tolist()))), len(track))
    done = counted(in_order(cut, enumerate(pictures)), "Cutting the pictures", len(track))
    sharp, has_alpha = zip(*done, strict=True)
    run.kept.forget()
    return list(sharp), any(has_alpha)


def fit_landmarks(run: Run, observations: Observations) -> Fit:
    """Stage 3: the head that meets the landmarks of the whole clip."""
    path = run.workspace.file("fit.npz")
    if not path.is_file():
        with run.stage("fit"), progress_bar("Fitting the head", None, "step") as bar:
            save_record(path, fit_clip(run.head, observations, FitSettings(), run.device, shown_on(bar)))
    return load_record(path, Fit)


def refine_by_pictures(run: Run, fit: Fit, observations: Observations, pictures: Pictures) -> Fit:
    """Stage 4: the fit made to follow the skin from picture to picture, finer than landmarks do."""
    if not run.settings.refine:
        return fit
    path = run.workspace.file("refined.npz")
    if not path.is_file():
        with run.stage("refine"), progress_bar("Refining the fit", None) as bar:
            refined = refine_clip(run.head, fit, observations, pictures.rgb.read, None, run.device, shown_on(bar))
        save_record(path, refined)
    return load_record(path, Fit)


@contextmanager
def mattes_meanwhile(
    run: Run, workers: Workers | None, rough: Fit, pictures: Pictures, crop: Crop, track: Track
) -> Iterator[Callable[[Fit], PictureStore]]:
    """Yields what cuts out the head, given the refined fit, and begins with it: the landmarks' fit is good enough for
    all but the cut at the neck. `workers` make the mattes; without them, another thread learns the clip's colours.
    """
    store, settings = cut_out_store(run), matte_settings(run)
    if pictures.given is not None or store.complete:
        yield lambda fit: cut_out_head(run, fit, pictures, crop, track)
    elif workers is None:
        view = MeshView(run.head, rough, crop.size, min(crop.size, LARGEST))
        with ThreadPoolExecutor(1) as pool:
            cutter = pool.submit(clip_colours, pictures.rgb.read, len(rough), view.silhouette, settings)
            yield lambda fit: cut_out_head(run, fit, pictures, crop, track, cutter.result())
    else:
        inside = crop.inside(track.width, track.height)
        # A network may keep what it saw before, and takes the pictures one after the other.
        parts = workers.count if by_colours(settings) else 1
        workers.start([MatteJob(run.settings.head, rough, pictures.rgb, store, inside, settings, frames)
                       for frames in shared_out(len(rough), parts)])
        yield lambda fit: wait_for_mattes(run, store, len(fit), workers)


def wait_for_mattes(run: Run, store: PictureStore, count: int, workers: Workers) -> PictureStore:
    """Stage 5, where other processes do it."""
    with run.stage("matte"):
        wait_shown(workers, "Cutting out the head", count, lambda: store.written)
    store.finish()
    run.notes.append(method_note(run.settings.matting_model))
    return store


def cut_out_store(run: Run) -> PictureStore:
    return PictureStore(run.workspace.file("cut_out"))


def matte_settings(run: Run) -> MatteSettings:
    return MatteSettings(run.settings.matting_model, run.settings.parsing_model)


def cut_out_head(
    run: Run, fit: Fit, pictures: Pictures, crop: Crop, track: Track, cutter: Cutter | None = None
) -> PictureStore:
    """Stage 5: RGBA of head and whole neck, which is cut when it is written; footage that has alpha keeps it. cutter:
    the clip's colours, if they are known.
    """
    store = cut_out_store(run)
    if store.complete:
        return store
    inside = crop.inside(track.width, track.height)
    with run.stage("matte"), progress_bar("Cutting out the head", len(fit)) as bar:
        if pictures.given is not None:
            given = pictures.given
            found: Iterator[ByteImage] = (
                with_alpha(pictures.rgb.read(index), np.minimum(given.read(index), inside))
                for index in range(len(fit)))
            run.notes.append("the footage has its own alpha channel, which was kept" if run.settings.alpha is None else
                             f"the mattes are those of {run.settings.alpha.name}")
        else:
            view = MeshView.of_stages(run.head, fit, crop.size, run.workspace.folder)
            mattes = matte_clip(pictures.rgb.read, len(fit), view.silhouette, matte_settings(run), None, cutter, False)
            found = cut_out(pictures.rgb.read, mattes, inside)
            run.notes.append(method_note(run.settings.matting_model))
        for index, picture in enumerate(found):
            store.write(index, picture)
            bar.update()
    store.finish()
    return store


def is_complete(settings: TrackSettings) -> bool:
    """Whether the data set that `settings` ask for lies at --output already.

    ValueError where one lies there that was made with other settings, or whose report cannot be read.
    """
    path = settings.output / MARK
    if not path.is_file():
        return False
    try:
        saved = load_table(path)["settings"]
        differing = sorted(key for key, value in plain(_deciding(settings)).items() if saved.get(key) != value)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not the report of a tracked data set ({error}); choose another --output") from error
    if differing:
        raise ValueError(f"--resume: {settings.output} was tracked with other {', '.join(differing)}; give the same "
                         "flags again, choose another --output, or replace it with --overwrite True")
    return True


def _deciding(settings: TrackSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if key not in NOT_DECIDING}


def job_of(settings: TrackSettings) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that resumes it."""
    state = settings.video.stat()
    footage = {"video": settings.video.resolve(), "bytes": state.st_size, "modified": state.st_mtime_ns}
    for calibration in (settings.intrinsics, settings.calibration):
        if calibration is not None:
            footage["lens"] = calibration.read_text(encoding="utf-8", errors="replace")
    job = plain({**_deciding(settings), **footage, "version": VERSION})
    assert isinstance(job, dict)
    return job


def shown_on(bar: tqdm) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


