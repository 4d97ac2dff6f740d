"""Networks that the user brings: mattes and face parsing from .onnx (onnxruntime) and .tflite (MediaPipe) files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from tracking.matte_refine import ByteImage
from tracking.model_files import DATA
from tracking.records import Floats

# No download: the checksum of the published file could not be verified where this was written. A file put there is
# used; MULTICLASS_URL is where it comes from.
MULTICLASS = DATA / "mediapipe" / "selfie_multiclass_256x256.tflite"
MULTICLASS_URL = ("https://storage.googleapis.com/mediapipe-models/image_segmenter/selfie_multiclass_256x256/float32/"
                  "latest/selfie_multiclass_256x256.tflite")
# Labels that are clothes, by the number of labels: MediaPipe's multiclass segmenter; CelebAMask-HQ's list as BiSeNet
# parsers number it.
CLOTHING = {6: (4,), 19: (16,)}
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
RECURRENT = ("r1", "r2", "r3", "r4")


class MatteModelError(RuntimeError):
    """A network file that cannot be used; the message says why and what is wanted."""


class MatteNetwork(Protocol):
    """A network that cuts out the person. side: the pixels a side it works at; None = as large as the picture."""

    @property
    def side(self) -> int | None: ...

    def alpha(self, image: ByteImage) -> Floats:
        """Alpha [S,S] in 0 .. 1 of the next picture uint8 RGB [S,S,3]."""

    def close(self) -> None:
        """Give back what the network holds; MediaPipe prints a traceback when that is left to the interpreter's end."""


class Labels(Protocol):
    """A network that labels pixels."""

    def shares(self, image: ByteImage) -> Floats:
        """Shares of C labels [C,S,S] in a picture uint8 RGB [S,S,3]."""

    def close(self) -> None:
        """As `MatteNetwork.close`."""


def default_model(given: Path | None) -> Path | None:
    """The network to use: the one given, else MediaPipe's multiclass segmenter where the user has put it, else None."""
    if given is None and MULTICLASS.is_file():
        return MULTICLASS
    return given


def method_note(given: Path | None) -> str:
    """In words, what cuts the person out."""
    path = default_model(given)
    if path is not None:
        return f"the person is cut out by {path.name}"
    return ("the person is cut out by colour and background, without a network (for hair before a lively or moving "
            f"background a network does better: put {MULTICLASS_URL} into {MULTICLASS.parent.name}/ of data/, or name "
            "one with --matting_model)")


def open_matting(path: Path) -> MatteNetwork:
    """The matting or segmentation network in a file.

    .onnx: Robust Video Matting (inputs src, r1i .. r4i), or one picture [1,3,H,W] in 0 .. 1 to alpha [1,1,H,W].
    .tflite: a MediaPipe image segmenter; label 0 is background; clothes are left out where their label is known.

    Raises FileNotFoundError, MatteModelError.
    """
    if _suffix(path, "--matting_model") == ".tflite":
        return _Segmenter(_TfliteLabels(path))
    session = _session(path)
    names = {i.name for i in session.get_inputs()}
    if {f"{r}i" for r in RECURRENT} <= names:
        return _VideoMatting(path, session)
    return _PictureMatting(path, session)


class Parsing:
    """How much of each pixel is clothing, by a face parsing network; classes: its labels of clothes.

    .onnx: [1,3,H,W] with ImageNet's normalisation to scores [1,C,H,W]. .tflite: a MediaPipe image segmenter.
    Empty classes: known for 6 (MediaPipe multiclass) and 19 labels (BiSeNet on CelebAMask-HQ).

    Raises FileNotFoundError, MatteModelError.
    """

    def __init__(self, path: Path, classes: tuple[int, ...] = ()) -> None:
        self.path, self.classes = path, classes
        tflite = _suffix(path, "--parsing_model") == ".tflite"
        self.labels: Labels = _TfliteLabels(path) if tflite else _OnnxLabels(path)

    def clothing(self, image: ByteImage) -> Floats:
        """[S,S] in 0 .. 1 of a picture uint8 RGB [S,S,3]. MatteModelError when the labels do not fit."""
        shares = self.labels.shares(image)
        wanted = self.classes or CLOTHING.get(len(shares), ())
        if not wanted or not 0 <= min(wanted) <= max(wanted) < len(shares):
            raise MatteModelError(f"{self.path}: the network tells {len(shares)} labels apart; which of them are "
                                  f"clothes? Known for {sorted(CLOTHING)} labels; named were {list(self.classes)}")
        return np.asarray(shares[list(wanted)].sum(axis=0), np.float32)

    def close(self) -> None:
        """As `MatteNetwork.close`."""
        self.labels.close()


def _suffix(path: Path, flag: str) -> str:
    if path.suffix.lower() not in (".onnx", ".tflite"):
        raise MatteModelError(f"{path}: {flag} wants an .onnx or a .tflite file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file ({flag} names a network's file)")
    return path.suffix.lower()


def _session(path: Path) -> Any:
    try:
        onnxruntime = import_module("onnxruntime")  # optional: only who brings an .onnx file needs it
    except ImportError as error:
        raise MatteModelError(f"{path}: reading .onnx files needs the package onnxruntime "
                              "(pip install onnxruntime)") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise MatteModelError(f"{path}: not a usable ONNX network ({str(error).splitlines()[0][:200]})") from error


def _infer(path: Path, session: Any, feed: dict[str, Any], outputs: list[str] | None = None) -> list[Any]:
    try:
        return list(session.run(outputs, feed))
    except Exception as error:
        raise MatteModelError(f"{path}: the network could not be run ({str(error).splitlines()[0][:200]})") from error


@dataclass(frozen=True)
class _Input:
    """The picture input of an ONNX network: name, number type, side in pixels (None where it is free)."""

    name: str
    kind: type
    side: int | None

    @staticmethod
    def of(path: Path, session: Any) -> _Input:
        recurrent = {f"{r}i" for r in RECURRENT}
        pictures = [i for i in session.get_inputs() if len(i.shape) == 4 and i.name not in recurrent
                    and (i.shape[1] == 3 or isinstance(i.shape[1], str))]
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(pictures) != 1 or pictures[0].type not in kinds:
            got = ", ".join(f"{i.name} {i.type} {i.shape}" for i in session.get_inputs())
            raise MatteModelError(f"{path}: one picture input [1,3,H,W] of floats expected, got {got}")
        side = pictures[0].shape[2]
        return _Input(pictures[0].name, kinds[pictures[0].type], side if isinstance(side, int) else None)

    def tensor(self, image: ByteImage, normalise: tuple[Floats, Floats] | None = None) -> Any:
        if self.side is not None and len(image) != self.side:
            image = np.asarray(cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA), np.uint8)
        x = image.astype(np.float32) / 255
        if normalise is not None:
            x = (x - normalise[0]) / normalise[1]
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None], self.kind)


def _as_alpha(path: Path, output: Any, size: int) -> Floats:
    """Check an output [1,1,H,W] and bring it to [size,size]."""
    alpha = np.asarray(output, np.float32)
    if alpha.ndim != 4 or alpha.shape[:2] != (1, 1):
        raise MatteModelError(f"{path}: alpha [1,1,H,W] expected, got {list(alpha.shape)}")
    if not (np.isfinite(alpha).all() and alpha.min() > -0.05 and alpha.max() < 1.05):
        raise MatteModelError(f"{path}: alpha in 0 .. 1 expected, got {alpha.min():.3g} .. {alpha.max():.3g}")
    return np.clip(cv2.resize(alpha[0, 0], (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)


class _OnnxNetwork:
    def close(self) -> None:
        """onnxruntime cleans up by itself."""


class _PictureMatting(_OnnxNetwork):
    """One picture in, its alpha out."""

    def __init__(self, path: Path, session: Any) -> None:
        self.path, self.session = path, session
        self.input = _Input.of(path, session)
        self.side = self.input.side

    def alpha(self, image: ByteImage) -> Floats:
        outputs = _infer(self.path, self.session, {self.input.name: self.input.tensor(image)})
        return _as_alpha(self.path, outputs[0], len(image))


class _VideoMatting(_OnnxNetwork):
    """Robust Video Matting: remembers the pictures before in r1 .. r4."""

    def __init__(self, path: Path, session: Any) -> None:
        self.path, self.session = path, session
        self.side: int | None = None
        self.input = _Input.of(path, session)
        outputs = {o.name for o in session.get_outputs()}
        self.outputs = ["pha", *(f"{r}o" for r in RECURRENT)]
        if missing := set(self.outputs) - outputs:
            raise MatteModelError(f"{path}: it has Robust Video Matting's inputs but not its outputs {sorted(missing)}")
        self.state: dict[str, Any] = {f"{r}i": np.zeros((1, 1, 1, 1), self.input.kind) for r in RECURRENT}
        self.ratio = any(i.name == "downsample_ratio" for i in session.get_inputs())

    def alpha(self, image: ByteImage) -> Floats:
        feed = {self.input.name: self.input.tensor(image), **self.state}
        if self.ratio:  # its authors' advice: the coarse pass at 512 pixels at most
            feed["downsample_ratio"] = np.array([min(1.0, 512 / len(image))], np.float32)
        alpha, *state = _infer(self.path, self.session, feed, self.outputs)
        self.state = {f"{r}i": s for r, s in zip(RECURRENT, state, strict=True)}
        return _as_alpha(self.path, alpha, len(image))


class _Segmenter:
    """A MediaPipe image segmenter: what is neither background nor known clothing."""

    side = 256  # of the published ones; MediaPipe brings their masks to the picture's size

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def alpha(self, image: ByteImage) -> Floats:
        shares = self.labels.shares(image)
        if len(shares) == 1:  # the person alone
            return shares[0]
        away = shares[[0, *CLOTHING.get(len(shares), ())]].sum(axis=0)
        return np.asarray(np.clip(1 - away, 0, 1), np.float32)

    def close(self) -> None:
        self.labels.close()


class _TfliteLabels:
    def __init__(self, path: Path) -> None:
        try:
            self.mediapipe = import_module("mediapipe")
            tasks = import_module("mediapipe.tasks.python")
        except ImportError as error:
            raise MatteModelError(f"{path}: reading .tflite files needs the package mediapipe "
                                  "(pip install --no-deps -r requirements-tracking.txt)") from error
        self.path = path
        options = tasks.vision.ImageSegmenterOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=path.read_bytes()), output_confidence_masks=True)
        try:
            self.segmenter = tasks.vision.ImageSegmenter.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise MatteModelError(f"{path}: not a MediaPipe image segmenter "
                                  f"({str(error).splitlines()[0][:200]})") from error

    def shares(self, image: ByteImage) -> Floats:
        picture = self.mediapipe.Image(self.mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))
        try:
            masks = [np.squeeze(m.numpy_view()) for m in self.segmenter.segment(picture).confidence_masks]
        except (RuntimeError, ValueError) as error:
            raise MatteModelError(f"{self.path}: the network could not be run "
                                  f"({str(error).splitlines()[0][:200]})") from error
        if not masks or any(m.shape != image.shape[:2] or not (m.min() > -0.05 and m.max() < 1.05) for m in masks):
            raise MatteModelError(f"{self.path}: not a MediaPipe image segmenter (it does not give shares in 0 .. 1 "
                                  "of labels for each pixel)")
        return np.stack(masks).astype(np.float32)

    def close(self) -> None:
        self.segmenter.close()


class _OnnxLabels(_OnnxNetwork):
    def __init__(self, path: Path) -> None:
        self.path, self.session = path, _session(path)
        self.input = _Input.of(path, self.session)

    def shares(self, image: ByteImage) -> Floats:
        feed = {self.input.name: self.input.tensor(image, IMAGENET)}
        scores = np.asarray(_infer(self.path, self.session, feed)[0], np.float32)
        if scores.ndim != 4 or scores.shape[0] != 1 or scores.shape[1] < 2:
            raise MatteModelError(f"{self.path}: scores of two labels or more [1,C,H,W] expected, "
                                  f"got {list(scores.shape)}")
        shares = np.exp(scores[0] - scores[0].max(axis=0))
        shares /= shares.sum(axis=0)
        size = (len(image), len(image))
        return np.stack([cv2.resize(share, size, interpolation=cv2.INTER_LINEAR) for share in shares])
