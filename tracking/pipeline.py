"""The road from footage to data set, stage by stage; every stage leaves its result in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from arguments.track_settings import TrackSettings
from flame import load_head
from tracking.crop import Crop, choose_crop, observe
from tracking.detector import CloseDetector
from tracking.footage import ByteImage, Listed, Picture
from tracking.landmark_fit import FitSettings, fit_clip
from tracking.landmarks import Track
from tracking.lens import Straight
from tracking.look import Look, look_at
from tracking.matte_job import MatteJob
from tracking.matting import Cutter, MatteSettings, by_colours, clip_colours, cut_out, matte_clip, method_note
from tracking.mesh_view import LARGEST, MeshView
from tracking.photometric_fit import refine_clip
from tracking.progress import counted, progress_bar
from tracking.publish import write_all
from tracking.records import Fit, Observations, load_record, save_record
from tracking.run import Finish, Found, Means, Outcome, Pictures, Run
from tracking.verdict import sharpness
from tracking.workers import Workers, shared_out, wait_shown
from tracking.workspace import PictureStore, load_table, save_table
from utils.images import with_alpha
from utils.parallel import in_order


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
    means = Means(device, load_head(settings.head))
    return go_on(look_at(settings, means.at_hand(), detector), finish, later, workers)


def go_on(look: Look, finish: Finish | None, later: bool, workers: Workers | None) -> Outcome:
    """`track_video` from the second stage on."""
    run, workspace, track = look
    crop = choose_crop(track, run.settings.size)
    observations = observe(track, crop, lens_of(run, crop))
    pictures = cut_pictures(run, track, crop)
    rough = fit_landmarks(run, observations)
    with mattes_meanwhile(run, workers, rough, pictures, crop, track) as cut:
        fit = refine_by_pictures(run, rough, observations, pictures)
        found = cut(fit)
    return write_all(run, workspace, finish, Found(track, crop, observations, fit, pictures, found), later, workers)


def lens_of(run: Run, crop: Crop) -> tuple[float, tuple[float, float]] | tuple[None, None]:
    """Focal length and principal point of the crop where the lens is known."""
    lens = run.footage.lens if isinstance(run.footage, Straight) else None
    return (None, None) if lens is None else lens.of_crop(crop)


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


def shown_on(bar: tqdm) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
