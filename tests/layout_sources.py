"""Data sets of known numbers, to be written in every layout and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from flame import Head
from flame.codes import fit_code
from scene import conventions
from scene.frame import Frame, read_only
from scene.readers.files import camera_of, tracking_of
from scene.readers.source import Source
from tests.tracker_folder import HEIGHT, WIDTH, image, write_png

CAMERA = np.diag([1.0, -1.0, -1.0])  # looks at the face: head space has y up and z forward


def make_source(folder: Path, head: Head, times: int = 4, views: tuple[str, ...] = ("",), neck: bool = True,
                offset: bool = False) -> Source:
    """Cameras `views` stand still, a head turns and shifts before them at `times` moments; all codes are random.

    Pictures are written into `folder`, WIDTH x HEIGHT pixels. Expressions and turns are those of ordinary clips.
    """
    rng = np.random.default_rng(0)
    shape, frames = rng.normal(0, 0.5, head.n_shape), list[Frame]()
    for time in range(times):
        turns = {name: rng.normal(0, 0.1, size) for name, size in (("jaw", 3), ("eyes", 6), ("neck", 3))}
        tracking = tracking_of(shape, rng.uniform(0, 0.5, head.n_expression), turns["jaw"], turns["eyes"],
                               rng.uniform(0, 0.4, 2), turns["neck"] if neck else None)
        pose, shift = Rotation.from_rotvec(rng.normal(0, 0.2, 3)).as_matrix(), rng.normal(0, 0.02, 3)
        for number, view in enumerate(views):
            R = Rotation.from_rotvec([0, 0.3 * number, 0.05]).as_matrix() @ CAMERA
            t = np.array([0.01 * number, 0.02, 8.0])  # the random head is metres large
            index = len(frames)
            K = conventions.pinhole(40.0, 41.0, WIDTH / 2 + 0.5, HEIGHT / 2 - 0.25)
            path = folder / f"{index}.png"
            write_png(path, image(index))
            camera = camera_of(R @ pose, R @ shift + t, K, WIDTH, HEIGHT)
            frames.append(Frame(index, camera, tracking, path, None, time, view))
    static = read_only(rng.normal(0, 0.003, (head.n_vertices, 3))) if offset else None
    return Source(tuple(frames), None, 350, head="open", static_offset=static)


def head_of_source(head: Head, source: Source) -> Head:
    """The model as `scene.data.choose_head` gives it."""
    return head if source.static_offset is None else head.with_offset(torch.from_numpy(source.static_offset.copy()))


def assert_same(found: Source, wanted: Source, tolerance: float = 1e-6) -> None:
    """Cameras, codes (zeros behind the head's number left out), neck, moments and names of cameras agree."""
    assert len(found.frames) == len(wanted.frames)
    for got, want in zip(found.frames, wanted.frames, strict=True):
        assert (got.index, got.time, got.view) == (want.index, want.time, want.view)
        assert (got.camera.width, got.camera.height) == (want.camera.width, want.camera.height)
        for name in ("R", "t", "K"):
            scale = max(1.0, float(np.abs(getattr(want.camera, name)).max()))
            np.testing.assert_allclose(getattr(got.camera, name), getattr(want.camera, name), atol=tolerance * scale,
                                       rtol=0, err_msg=f"{name} of frame {want.index}")
        for name in ("shape", "expression", "jaw", "eyes", "eyelids", "neck"):
            wanted_code = getattr(want.tracking, name)
            wanted_code = np.array([1, 0, 0, 0, 1, 0]) if wanted_code is None else wanted_code
            code = getattr(got.tracking, name)
            code = np.array([1, 0, 0, 0, 1, 0]) if code is None else code
            code = fit_code(code, len(wanted_code), name, "the layout")
            np.testing.assert_allclose(code, wanted_code, atol=tolerance, rtol=0, err_msg=f"{name} of {want.index}")
