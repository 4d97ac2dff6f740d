"""How exact track.py is: python -m benchmarks.tracking [--subjects 5] [--data DATA --name NAME] [FLAGS]

**Demo subjects.** Films `--subjects` synthetic persons (another face and another motion each, before a lively wall,
camera noise, H.264), tracks the films as track.py does, and compares with the truth: rows of each subject, the medians
last. Then films one person who does not move at all, which tells the jitter.

**Cameras** (`--cameras`). Films one demo subject from the front and both sides at once, and tracks the front alone, the
front with its lens known, all three with lenses and places known, and all three with nothing known.

**Data sets** (`--data`, tracked by whatever program): tracks the pictures anew, without their alpha, and compares both
trackings by one measure: landmarks, how far skull and ears reach out of the data set's alpha, unsteadiness where the
picture hardly changes; and our matte with the data set's. `--film` names the film with the same pictures that the data
set was made from; without it the colours beyond the data set's alpha, which may be of no scene, are part of the film.

On the CPU; about a minute per subject and two per data set of 100 pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from arguments import DataSettings
from arguments.track_settings import TrackSettings
from benchmarks.results import RESULTS, Results
from benchmarks.tracking_errors import Errors, Placed, errors_of, jitter_at_rest, quiet_frames, unsteadiness
from data.demo import layout
from data.demo.generate import Settings, plan
from data.demo.motion import DISTANCE
from data.demo.render import intrinsics, render
from data.demo.subject import Codes, posed_vertices
from flame import Head, load_head, pose_head
from scene.clip import clip_of
from scene.data import choose_head, open_data, open_dataset
from tracking.crop import Crop, choose_crop, observe
from tracking.footage import ByteImage, Listed
from tracking.landmark_embedding import LOOSE_SPREAD, landmark_embedding
from tracking.landmark_fit import landmark_errors
from tracking.landmarks import Track
from tracking.look import find_face
from tracking.mesh_view import SKULL, MeshView, parts_of
from tracking.outline import reach_out
from tracking.pipeline import cut_out_head, cut_pictures, fit_landmarks, refine_by_pictures, track_video
from tracking.records import Fit
from tracking.run import Means, Run
from tracking.several import track_cameras
from tracking.video import open_footage
from tracking.workspace import MARK, PictureStore, Workspace, load_table
from utils.atomic import write_json
from utils.video import write_video

NOISE = 2.0     # levels of 255 of the films' camera noise
YAWS = {"front": 0.0, "left": 28.0, "right": -33.0}  # degrees of the cameras of --cameras
STRIDE = 3      # frames of the motion from one filmed picture to the next: more of it in fewer pictures
UNITS = {"vertex": "mm", "skull": "mm", "rotation": "degrees", "across": "mm", "along": "mm", "distance": "1",
         "pixels": "px"}
OPAQUE = 128


@dataclass(frozen=True, eq=False)
class Tracked:
    """What the stages of track.py found in a film; cut_out: their RGBA, or None."""

    head: Head
    track: Track
    crop: Crop
    fit: Fit
    cut_out: PictureStore | None


def track(video: Path, folder: Path, size: int, face_model: Path | None, matte: bool = False) -> Tracked:
    """The stages of track.py but for the writing."""
    settings = TrackSettings(video, folder / "data", size=size, face_model=face_model)
    means = Means(torch.device("cpu"), load_head(settings.head))
    run = Run(settings, means.at_hand(), open_footage(video), Workspace(settings.output, {}, False, False))
    found = find_face(run)
    crop = choose_crop(found, size)
    pictures, observations = cut_pictures(run, found, crop), observe(found, crop)
    fit = refine_by_pictures(run, fit_landmarks(run, observations), observations, pictures)
    return Tracked(run.head, found, crop, fit, cut_out_head(run, fit, pictures, crop, found) if matte else None)


def placed(head: Head, fit: Fit) -> Placed:
    """The fitted mesh in camera axes."""
    view = MeshView(head, fit, 1)
    vertices = np.stack([view.vertices(i) @ fit.R[i].T + fit.t[i] for i in range(len(fit))])
    return Placed(vertices.astype(np.float64), fit.K.astype(np.float64))


def film(path: Path, seed: int, frames: int, size: int, still: bool, yaw: float = 0.0) -> Placed:
    """Write a film of the person of `seed`; the truth. still: the first picture of an open face, again and again. yaw:
    degrees by which the camera stands to the side, see `side`.
    """
    turn, shift = side(yaw)
    head, subject, motion, codes = plan(Settings(frames * STRIDE, size, seed))
    chosen = np.full(frames, 4 * STRIDE) if still else np.arange(frames) * STRIDE
    kept = Codes(codes.shape, *(getattr(codes, n)[chosen] for n in ("expression", "jaw", "eyes", "eyelids")))
    vertices, background = posed_vertices(head, kept), layout.make_background(size, seed)
    rng = np.random.default_rng(seed)
    image: NDArray[np.float64] = np.zeros(0)
    with write_video(path, fps=25 / STRIDE) as show:
        for posed, index in zip(vertices, chosen, strict=True):
            if not image.size or not still:
                rgba = render(subject, posed, motion.expression[index], turn @ motion.R[index],
                              turn @ motion.t[index] + shift, motion.turn[index], size)
                alpha = rgba[..., 3:] / 255
                image = rgba[..., :3] * alpha + background * (1 - alpha)
            show(np.clip(np.rint(image + NOISE * rng.standard_normal(image.shape)), 0, 255).astype(np.uint8))
    camera = np.einsum("tvc,tdc->tvd", vertices, turn @ motion.R[chosen])
    camera += (motion.t[chosen] @ turn.T + shift)[:, None]
    return Placed(camera, intrinsics(size).astype(np.float64))


def side(yaw: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From the front camera to one that stands `yaw` degrees to the side and looks at the head: R [3,3], t [3]."""
    turn = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
    head = np.array([0, 0, DISTANCE])
    return turn, head - turn @ head


def of_crop(true: Placed, crop: Crop) -> Placed:
    """The truth as a camera sees it whose pictures are the crops."""
    K = true.K.copy()
    K[:2, 2] -= crop.left, crop.top
    K[:2] *= crop.scale
    return Placed(true.vertices, K)


def points_of(head: Head) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertex numbers of face and skull."""
    skull = np.unique(head.faces.numpy()[parts_of(head) == SKULL])
    return head.regions["face"].numpy(), skull


def demo(args: argparse.Namespace, folder: Path, results: Results) -> None:
    """Rows of the demo subjects."""
    found: list[Errors] = []
    setting = f"demo subjects, {args.frames} pictures of {args.size}x{args.size}"
    for seed in range(args.subjects):
        video = folder / f"{seed}.mp4"
        truth = film(video, seed, args.frames, args.size, False)
        tracked = track(video, folder / str(seed), args.size, args.face_model)
        true = of_crop(Placed(truth.vertices[tracked.track.index], truth.K), tracked.crop)
        found.append(errors_of(placed(tracked.head, tracked.fit), true, *points_of(tracked.head)))
        _add_errors(results, f"{setting}, subject {seed}", asdict(found[-1]))
    if found:
        medians = {name: float(np.median([getattr(errors, name) for errors in found])) for name in UNITS}
        _add_errors(results, f"{setting}, median of {len(found)}", medians)
    still = folder / "still.mp4"
    film(still, 0, args.frames // 2, args.size, True)
    tracked = track(still, folder / "still", args.size, args.face_model)
    across, along = jitter_at_rest(placed(tracked.head, tracked.fit), points_of(tracked.head)[0])
    results.add("track_jitter_across", f"{setting}, at rest", across, "mm")
    results.add("track_jitter_along", f"{setting}, at rest", along, "mm")


def _add_errors(results: Results, setting: str, errors: dict[str, float]) -> None:
    for name, unit in UNITS.items():
        results.add(f"track_{name}", setting, errors[name], unit)


def cameras(args: argparse.Namespace, folder: Path, results: Results) -> None:
    """Rows of one subject before one and three cameras, known and not."""
    truth = {name: film(folder / f"{name}.mp4", 1, args.frames, args.size, False, yaw) for name, yaw in YAWS.items()}
    K = intrinsics(args.size) - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # as OpenCV counts pixels
    lens = {"camera_matrix": K.tolist(), "image_width": args.size, "image_height": args.size}
    places = {name: dict(zip(("R", "t"), (part.tolist() for part in side(yaw)), strict=True))
              for name, yaw in YAWS.items()}
    write_json(folder / "lens.json", lens)
    write_json(folder / "rig.json", {"cameras": {name: lens | place for name, place in places.items()}})
    front, others = folder / "front.mp4", tuple(folder / f"{name}.mp4" for name in YAWS if name != "front")
    ways: dict[str, dict[str, Any]] = {
        "the front alone": {}, "the front alone, --intrinsics": {"intrinsics": folder / "lens.json"},
        "three cameras": {"camera": others},
        "three cameras, --calibration": {"camera": others, "calibration": folder / "rig.json"},
    }
    for way, flags in ways.items():
        settings = TrackSettings(front, folder / "data", size=args.size, face_model=args.face_model, overwrite=True,
                                 **flags)
        outcome = (track_cameras if flags.get("camera") else track_video)(settings, torch.device("cpu"))
        setting = f"demo subject 1, {args.frames} pictures of {args.size}x{args.size}, {way}"
        _add_errors(results, setting, asdict(_front_errors(outcome.folder, truth["front"])))
        if flags.get("camera"):
            _add_places(results, setting, outcome.folder)


def _front_errors(folder: Path, truth: Placed) -> Errors:
    """Those of the front camera's pictures of a data set."""
    said = load_table(folder / MARK)
    said, folder = (said["cameras"]["front"], folder / "cameras" / "front") if "cameras" in said else (said, folder)
    head, dataset = load_head("open"), open_dataset(DataSettings(folder), open_data(DataSettings(folder)))
    codes = (dataset.expression[:, :head.n_expression], dataset.jaw, dataset.eyes, dataset.eyelids)
    vertices = pose_head(head, dataset.shape[0, :head.n_shape], *codes).vertices.double().numpy()
    ours = np.einsum("tvc,tdc->tvd", vertices, dataset.R.numpy()) + dataset.t.numpy()[:, None]
    kept = [frame["source_frame"] for frame in said["frames"]]
    true = of_crop(Placed(truth.vertices[kept], truth.K), Crop(**said["crop"]))
    return errors_of(Placed(ours, dataset.K[0].double().numpy()), true, *points_of(head))


def _add_places(results: Results, setting: str, folder: Path) -> None:
    """How far the side cameras' directions are off."""
    found = np.array(load_table(folder / MARK)["rig"]["R"])
    wanted = np.stack([side(yaw)[0] for yaw in YAWS.values()])
    off = Rotation.from_matrix(found @ wanted.transpose(0, 2, 1)).magnitude()
    results.add("track_camera_direction", setting, float(np.degrees(off.max())), "degrees")


def data_set(args: argparse.Namespace, folder: Path, results: Results) -> None:
    """Rows of a data set: its own tracking, and ours of the same pictures."""
    data = DataSettings(args.data, head=args.head)
    source = open_data(data)
    head, dataset = choose_head(args.head, source), open_dataset(data, source)
    clip, count = clip_of(data, source, head, dataset), min(args.frames, dataset.frame_count)
    pictures = [dataset.rgba(i) for i in range(count)]
    video = folder / "film.mp4"
    with write_video(video, fps=25, crf=6) as show:
        for picture in _pictures_of(args.film, pictures):
            show(picture)
    tracked = track(video, folder / "data", args.size, args.face_model, matte=True)
    kept = tracked.track.index
    codes = {name: getattr(clip.codes, name)[kept].numpy() for name in ("expression", "jaw", "eyes", "eyelids")}
    given = Fit(shape=clip.codes.shape.numpy(), R=clip.R[kept].numpy(), t=clip.t[kept].numpy(), K=clip.K[0].numpy(),
                landmark_error=np.zeros(len(kept), np.float32), **codes)
    quiet = quiet_frames(np.stack([cv2.cvtColor(pictures[i][..., :3], cv2.COLOR_RGB2GRAY) for i in kept]))
    whole = Crop(0, 0, dataset.width, dataset.width)
    setting = f"{args.name}, first {count} pictures of {dataset.width}x{dataset.height}"
    for label, fit, crop in (("as given", given, whole), ("track.py", tracked.fit, tracked.crop)):
        _compare(results, f"{setting}, {label}", head, tracked.track, fit, crop, quiet,
                 [pictures[i][..., 3] for i in kept])
    _add_mattes(results, setting, tracked, [pictures[i][..., 3] for i in kept])


def _pictures_of(film: Path | None, pictures: list[ByteImage]) -> list[ByteImage]:
    """RGB of the film where it is given, else of the data set. ValueError where they have not the same pictures."""
    if film is None:
        return [np.ascontiguousarray(rgba[..., :3]) for rgba in pictures]
    filmed = [p.rgb for p in open_footage(film).pictures(Listed(frozenset(range(len(pictures)))))]
    sizes = {rgb.shape[:2] for rgb in filmed} | {rgba.shape[:2] for rgba in pictures}
    if len(filmed) != len(pictures) or len(sizes) > 1:
        raise ValueError(f"{film}: the pictures of the data set expected, got {len(filmed)} of {len(pictures)} and "
                         f"sizes {sorted(sizes)}")
    return filmed


def _compare(
    results: Results, setting: str, head: Head, seen: Track, fit: Fit, crop: Crop, quiet: NDArray[np.int64],
    alpha: list[ByteImage],
) -> None:
    """Rows of one tracking whose pictures are the crops; lengths in pixels of the data set."""
    errors = landmark_errors(head, fit, observe(seen, crop))
    view = MeshView(head, fit, crop.size)
    embedding = landmark_embedding(head)
    firm = embedding.spread < LOOSE_SPREAD
    corners, weights = head.faces.numpy()[embedding.triangle[firm]], embedding.barycentric[firm]
    pixels, beyond = [], []
    for index, matte in enumerate(alpha):
        points = np.einsum("lc,lcd->ld", weights, view.vertices(index)[corners])
        pixels.append(view.pixels(points, index)[0] / crop.scale)
        beyond.append(reach_out(view.draw(index), crop.cut(matte) >= OPAQUE))
    results.add("track_landmarks", setting, float(errors.raw.mean()) / crop.scale, "px")
    results.add("track_landmarks_aligned", setting, float(errors.aligned.mean()) / crop.scale, "px")
    for name, values in zip(("skull", "ears"), np.array(beyond).T, strict=True):
        if np.isfinite(values).any():
            results.add(f"track_{name}_beyond", setting, float(np.nanmean(values)), "1")
    results.add("track_unsteadiness", setting, unsteadiness(np.stack(pixels), quiet), "px")


def _add_mattes(results: Results, setting: str, tracked: Tracked, alpha: list[ByteImage]) -> None:
    """Our mattes without a network beside the data set's, above the cut of the neck."""
    assert tracked.cut_out is not None
    view = MeshView(tracked.head, tracked.fit, tracked.crop.size)
    difference, both, either = [], 0, 0
    for index, matte in enumerate(alpha):
        ours, wanted = tracked.cut_out.read(index)[..., 3], tracked.crop.cut(matte)
        rows = np.flatnonzero((view.silhouette(index) >= 0.5).any(axis=1))
        above = slice(0, int(rows[-1] - 0.1 * len(rows)))  # the cut is a matter of taste
        difference.append(np.abs(ours[above].astype(float) - wanted[above]).mean() / 255)
        inside = ours[above] >= OPAQUE, wanted[above] >= OPAQUE
        both, either = both + int((inside[0] & inside[1]).sum()), either + int((inside[0] | inside[1]).sum())
    results.add("matte_difference", setting, float(np.mean(difference)), "1")
    results.add("matte_overlap", setting, both / max(either, 1), "1")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=5, help="demo subjects; 0 leaves out the demo")
    parser.add_argument("--cameras", action="store_true", help="one demo subject before one and three cameras")
    parser.add_argument("--data", type=Path, help="a tracked data set")
    parser.add_argument("--film", type=Path, help="that the data set was made from, picture by picture")
    parser.add_argument("--head", default="auto", help="head model of its tracking, as in train.py")
    parser.add_argument("--name", default="data set", help="of the data set, for the rows")
    parser.add_argument("--frames", type=int, default=60, help="pictures of a film, and of a data set at most")
    parser.add_argument("--size", type=int, default=384, help="side of the pictures in pixels")
    parser.add_argument("--face_model", type=Path, help="as in track.py")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args = parser.parse_args(None if arguments is None else list(arguments))
    results = Results(args.results, args.commit)
    with tempfile.TemporaryDirectory() as temporary:
        if args.subjects:
            demo(args, Path(temporary), results)
        if args.cameras:
            cameras(args, Path(temporary), results)
        if args.data is not None:
            data_set(args, Path(temporary), results)


if __name__ == "__main__":
    main()
