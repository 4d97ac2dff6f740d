"""Networks for the matte: tiny ones, made here, whose answer is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests import matte_scene
from tracking.matte_model import MatteModelError, Parsing, open_matting
from tracking.matte_refine import neck_ramp
from tracking.matting import MatteSettings, matte_clip

SIDE = 32


def tensor(name, shape):
    onnx = pytest.importorskip("onnx")
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape or list("nchw"))


def save(path, nodes, inputs, outputs, constants=None):
    """An ONNX file; constants: name -> array."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = [onnx.numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = onnx.helper.make_graph([onnx.helper.make_node(*n[:-1], **n[-1]) for n in nodes], "g", inputs, outputs,
                                   weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def darkness(path, side, scale=1.0, slope=1.0):
    """alpha = scale * (1 - slope * red)."""
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 0] = -scale * slope
    nodes: list[tuple] = [("Conv", ["image", "red"], ["r"], {}), ("Add", ["r", "one"], ["alpha"], {})]
    return save(path, nodes, [tensor("image", [1, 3, side, side])], [tensor("alpha", None)],
                {"red": red, "one": np.full(1, scale, np.float32)})


def test_plain_network_at_its_own_size(tmp_path):
    network = open_matting(darkness(tmp_path / "n.onnx", SIDE))
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :, 0], image[32:] = 255, (51, 9, 9)
    alpha = network.alpha(image)
    assert network.side == SIDE
    assert alpha.shape == (64, 64)
    assert np.allclose(alpha[:30], 0, atol=1e-6)
    assert np.allclose(alpha[34:], 0.8, atol=1e-6)


def test_plain_network_of_any_size_is_taken_as_it_is(tmp_path):
    """Only a network that works smaller than the picture is refined: here alpha is the network's to one level."""
    clip = matte_scene.clip(count=1)
    settings = MatteSettings(darkness(tmp_path / "n.onnx", "size"))
    matte = clip.play(matte_clip, settings)[0]
    expected = 1 - clip.rgb[0][..., 0] / 255
    ring = (clip.head[0] < 0.01) & (clip.alpha[0] > 0.99) & (neck_ramp(matte_scene.shape_of(clip.head[0])) == 1)
    assert ring.sum() > 500
    assert np.abs(matte - expected)[ring].max() < 1 / 255


def test_coarse_network_gets_fine_borders(tmp_path):
    """A network at a fifth of the size: the refined matte is nearer to the truth than the network's, enlarged."""
    clip = matte_scene.clip(count=1, pan=1.0)
    calls = []

    class Coarse:
        side = SIDE

        def alpha(self, image):
            import cv2
            small = cv2.resize(clip.alpha[0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            calls.append(cv2.resize(small, image.shape[:2]))
            return calls[-1]

        def close(self):
            calls.append("closed")

    import tracking.matting as module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_matting", lambda path: Coarse())
        matte = clip.play(matte_clip, MatteSettings(tmp_path / "any.onnx"))[0]
    seen = neck_ramp(matte_scene.shape_of(clip.head[0])) == 1
    assert np.abs(matte - clip.alpha[0])[seen].mean() < 0.8 * np.abs(calls[0] - clip.alpha[0])[seen].mean()
    assert calls[1:] == ["closed"]


def recurrent(path, ratio=True, outputs=("pha", "r1o", "r2o", "r3o", "r4o")):
    """Robust Video Matting's ports: pha = red + what r1 remembers, r1 grows by 0.25 a picture."""
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 0] = 1
    nodes: list[tuple] = [("Conv", ["src", "red"], ["r"], {}), ("Add", ["r", "r1i"], ["sum"], {}),
             ("Clip", ["sum", "low", "high"], ["pha"], {}), ("Add", ["r1i", "quarter"], ["r1o"], {}),
             *(("Identity", [f"r{i}i"], [f"r{i}o"], {}) for i in (2, 3, 4))]
    inputs = [tensor("src", [1, 3, "h", "w"]), *(tensor(f"r{i}i", [1, "c", "a", "b"]) for i in (1, 2, 3, 4))]
    numbers = {"quarter": 0.25, "low": 0, "high": 1}
    constants = {"red": red, **{name: np.array(value, np.float32) for name, value in numbers.items()}}
    if ratio:
        inputs.append(tensor("downsample_ratio", [1]))
        nodes.append(("Identity", ["downsample_ratio"], ["unused"], {}))
    return save(path, nodes, inputs, [tensor(o, None) for o in outputs], constants)


@pytest.mark.parametrize("ratio", [True, False])
def test_recurrent_network_remembers(tmp_path, ratio):
    network = open_matting(recurrent(tmp_path / "rvm.onnx", ratio))
    black = np.zeros((16, 16, 3), np.uint8)
    assert [float(network.alpha(black).mean()) for _ in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


def test_recurrent_network_without_its_outputs(tmp_path):
    with pytest.raises(MatteModelError, match=r"not its outputs \['r4o'\]"):
        open_matting(recurrent(tmp_path / "rvm.onnx", outputs=("pha", "r1o", "r2o", "r3o")))


def test_alpha_out_of_range_is_told(tmp_path):
    network = open_matting(darkness(tmp_path / "n.onnx", SIDE, scale=5.0))
    with pytest.raises(MatteModelError, match=r"n.onnx: alpha in 0 .. 1 expected, got 5 .. 5"):
        network.alpha(np.zeros((64, 64, 3), np.uint8))


def labels(path, count):
    """A parser of `count` labels: the last one where there is red, else label 0."""
    weight = np.zeros((count, 3, 1, 1), np.float32)
    weight[-1, 0], weight[0, 0] = 50, -50
    return save(path, [("Conv", ["image", "w"], ["scores"], {})], [tensor("image", [1, 3, "h", "w"])],
                [tensor("scores", None)], {"w": weight})


def test_an_answer_that_is_no_alpha_is_told(tmp_path):
    network = open_matting(labels(tmp_path / "n.onnx", 4))
    with pytest.raises(MatteModelError, match=r"alpha \[1,1,H,W\] expected, got \[1, 4, 16, 16\]"):
        network.alpha(np.zeros((16, 16, 3), np.uint8))


def test_parsing_takes_the_clothes_away(tmp_path):
    """Red everywhere in the right half: called clothes, it goes, except where the fitted head lies."""
    clip = matte_scene.clip(count=1)
    image = clip.rgb.copy()
    image[0, :, :80, 0], image[0, :, 80:, 0] = 0, 255
    settings = MatteSettings(darkness(tmp_path / "m.onnx", "s", slope=0), labels(tmp_path / "p.onnx", 17), (16,))
    share = Parsing(tmp_path / "p.onnx", (16,)).clothing(image[0])
    assert share[:, :80].max() < 0.01
    assert share[:, 80:].min() > 0.99
    matte = next(matte_clip(image.__getitem__, 1, clip.head.__getitem__, settings))
    beside = (clip.head[0] == 0) & (neck_ramp(matte_scene.shape_of(clip.head[0])) == 1)
    assert matte[:, :70][beside[:, :70]].min() == 255  # the network calls everything the person
    assert matte[:, 125:].max() == 0
    assert matte[clip.head[0] > 0.99].mean() > 230


@pytest.mark.parametrize("count, classes", [(7, ()), (7, (7,)), (7, (-1,)), (19, (40,))])
def test_unknown_clothes_are_asked_for(tmp_path, count, classes):
    parsing = Parsing(labels(tmp_path / "p.onnx", count), classes)
    with pytest.raises(MatteModelError, match=rf"p.onnx: the network tells {count} labels apart; which of them are"):
        parsing.clothing(np.zeros((16, 16, 3), np.uint8))


def test_parsing_wants_scores(tmp_path):
    with pytest.raises(MatteModelError, match=r"scores of two labels or more .* got \[1, 1, 32, 32\]"):
        Parsing(darkness(tmp_path / "p.onnx", SIDE)).clothing(np.zeros((64, 64, 3), np.uint8))


def test_picture_input_is_wanted(tmp_path):
    path = save(tmp_path / "n.onnx", [("Identity", ["x"], ["y"], {})], [tensor("x", [1, 5])], [tensor("y", [1, 5])])
    with pytest.raises(MatteModelError, match=r"n.onnx: one picture input \[1,3,H,W\] of floats expected, got x"):
        open_matting(path)


def test_a_network_that_fails_is_told(tmp_path):
    """It announces any size but multiplies with a constant of one size."""
    path = save(tmp_path / "n.onnx", [("Mul", ["x", "c"], ["y"], {})], [tensor("x", [1, 3, "h", "w"])],
                [tensor("y", None)], {"c": np.ones((1, 1, 7, 7), np.float32)})
    with pytest.raises(MatteModelError, match=r"n.onnx: the network could not be run"):
        open_matting(path).alpha(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize("suffix, package, message", [
    (".onnx", "onnxruntime", "not a usable ONNX network"),
    (".tflite", "mediapipe", "not a MediaPipe image segmenter"),
])
@pytest.mark.parametrize("open_file", [open_matting, Parsing])
def test_a_file_that_is_no_network(tmp_path, suffix, package, message, open_file):
    pytest.importorskip(package)
    path = tmp_path / f"n{suffix}"
    path.write_bytes(b"no network at all")
    with pytest.raises(MatteModelError, match=rf"n{suffix}: {message}"):
        open_file(path)


@pytest.mark.parametrize("suffix, package", [(".onnx", "onnxruntime"), (".tflite", "mediapipe")])
def test_a_missing_package_is_told(tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"n{suffix}"
    path.write_bytes(b"")
    with pytest.raises(MatteModelError, match=rf"files needs the package {package}"):
        open_matting(path)


class FakeLabels:
    """A segmenter's answer: label i has share shares[i] everywhere."""

    def __init__(self, shares):
        self.given = np.float32(shares)

    def shares(self, image):
        return np.ones(image.shape[:2], np.float32) * self.given[:, None, None]

    def close(self):
        pass


@pytest.mark.parametrize("shares, alpha", [
    ([0.7], 0.7),                                # the person alone
    ([0.3, 0.7], 0.7),                           # background, person
    ([0.2, 0.1, 0.1, 0.2, 0.3, 0.1], 0.5),       # multiclass: neither background nor clothes
])
def test_what_a_segmenters_labels_mean(tmp_path, monkeypatch, shares, alpha):
    monkeypatch.setattr("tracking.matte_model._TfliteLabels", lambda path: FakeLabels(shares))
    path = tmp_path / "s.tflite"
    path.write_bytes(b"")
    assert open_matting(path).alpha(np.zeros((8, 8, 3), np.uint8)) == pytest.approx(alpha, abs=1e-6)
