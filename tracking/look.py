"""The first stage of tracking: the face in every picture. It does without torch, which can be imported meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from arguments.track_settings import TrackSettings
from tracking import closer_look
from tracking.detection import in_pieces, one_by_one
from tracking.detector import CloseDetector, MediaPipeDetector, heard_stderr
from tracking.footage import Dropped, Footage, Listed, Picture, Span, without_repeats
from tracking.given_alpha import WithAlpha
from tracking.job import job_of
from tracking.landmarks import NoFaceError, Track, follow_face, look_for_faces
from tracking.lens import read_lens, straight
from tracking.progress import counted, progress_bar
from tracking.records import load_record, save_record
from tracking.run import Means, Run
from tracking.threads import without_torch
from tracking.video import open_footage
from tracking.workspace import Workspace, load_table, save_table

MIN_FRAMES = 10  # fewer tell nothing about a person's expressions, nor about the focal length


class TooFewFramesError(ValueError):
    """What is left of the footage is too short; the message says what was left and why."""


class Look(NamedTuple):
    """A run whose first stage is done."""

    run: Run
    workspace: Workspace
    track: Track


def look_at(settings: TrackSettings, means: Future[Means], detector: CloseDetector | None = None) -> Look:
    """Begin a run with the one camera of `settings`. An error of `means` ends it as soon as it is there.

    detector, errors: see `pipeline.track_video`.
    """
    Span(settings.start, settings.end, settings.fps)  # flags that make no sense are told before anything is read
    footage = open_given(settings)
    workspace = Workspace(settings.output, job_of(settings), settings.resume, settings.overwrite)
    run = Run(settings, means, footage, workspace, detector)
    resumed = _record(run).is_file()
    try:
        track = find_face(run)
        means.result()
    except Exception:  # nothing worth resuming yet; an interruption by the user is no Exception
        if not resumed:
            workspace.discard()
        raise
    return Look(run, workspace, track)


def open_given(settings: TrackSettings) -> Footage:
    """The footage of one camera, with mattes and without the distortion of its lens where those are given."""
    footage = open_footage(settings.video, settings.fps)
    if settings.alpha is not None:
        footage = WithAlpha(footage, open_footage(settings.alpha, settings.fps))
    lens = settings.intrinsics
    return footage if lens is None else straight(footage, read_lens(lens), str(lens))


def find_face(run: Run) -> Track:
    """Stage 1: the followed face in every picture that is kept.

    Raises:
        NoFaceError: no face was found.
        TooFewFramesError: the face was found in fewer than MIN_FRAMES pictures.
        tracking.footage.FootageError: nothing could be read.
    """
    record, table = _record(run), run.workspace.file("track.json")
    if record.is_file() and table.is_file():
        saved = load_table(table)
        run.dropped, run.notes = [Dropped(**item) for item in saved["dropped"]], saved["notes"]
        run.clock = [(index, time) for index, time in saved["clock"]]
        return load_record(record, Track)
    with run.stage("landmarks", without_torch):
        track = _detect(run)
    save_record(record, track)
    save_table(table, {"dropped": [asdict(d) for d in run.dropped], "notes": run.notes, "clock": run.clock})
    return track


def _record(run: Run) -> Path:
    """Where the track is kept."""
    return run.workspace.file("track.npz")


def _while_sensible(pictures: Iterable[Picture], means: Future[Means]) -> Iterator[Picture]:
    """The same pictures, as long as nothing has failed without which they are of no use."""
    for picture in pictures:
        if means.done():
            means.result()
        yield picture


def _detect(run: Run) -> Track:
    settings, repeats = run.settings, list[Dropped]()
    wanted = run.kept.pictures(Span(settings.start, settings.end, settings.fps))
    pictures = without_repeats(_while_sensible(wanted, run.means), repeats)
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
