"""A synthetic head before a textured wall, with exactly known alpha: what the tests of the matte look at."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracking.matte_refine import HeadShape

SIZE = 160
CLOTHES = 142  # row where they begin
SUPER = 4  # samples a pixel and axis: soft edges and strands thinner than a pixel


@dataclass(frozen=True, eq=False)
class Clip:
    """rgb [T,S,S,3] uint8; alpha [T,S,S] of head, hair and neck; head [T,S,S] the fitted head's silhouette."""

    rgb: np.ndarray
    alpha: np.ndarray
    head: np.ndarray

    def play(self, matte_clip, settings=None):
        count = len(self.rgb)
        return np.stack(list(matte_clip(self.rgb.__getitem__, count, self.head.__getitem__, settings))) / 255


def shape_of(head):
    shape = HeadShape.of(head)
    assert shape is not None
    return shape


def wall(seed=0, size=SIZE + 40):
    """Blotches of several sizes in bluish and greenish tones [size,size,3]."""
    rng = np.random.default_rng(seed)
    out = np.full((size, size, 3), (90, 130, 140), np.float32)
    for cell, strength in ((4, 8), (20, 20), (60, 25)):
        noise = rng.normal(size=(size // cell + 1, size // cell + 1, 3)).astype(np.float32)
        out += strength * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(out, 0, 255)


def _ellipse(canvas, centre, axes):
    scaled = [(round(SUPER * a), round(SUPER * b)) for a, b in (centre, axes)]
    cv2.ellipse(canvas, scaled[0], scaled[1], 0, 0, 360, 1, -1)


def _shrunk(canvas):
    return cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _layers(x, y, seed):
    """Coverage [S,S] of hair, skin and clothes about the middle of the face at (x, y)."""
    hair, skin, clothes = (np.zeros((SIZE * SUPER, SIZE * SUPER), np.float32) for _ in range(3))
    _ellipse(hair, (x, y - 8), (37, 46))
    rng = np.random.default_rng(seed)
    for angle in rng.uniform(-2.9, -0.2, 14):
        away = np.array([np.cos(angle), np.sin(angle)])
        start = SUPER * (np.array([x, y - 8]) + away * (35, 44))
        end = start + SUPER * rng.uniform(5, 9) * (away + rng.normal(size=2) * 0.3)
        cv2.line(hair, start.round().astype(int).tolist(), end.round().astype(int).tolist(), 1, 3)
    _ellipse(skin, (x, y), (28, 40))
    cv2.rectangle(skin, (round(SUPER * (x - 13)), round(SUPER * y)), (round(SUPER * (x + 13)), SUPER * SIZE), 1, -1)
    cv2.rectangle(clothes, (0, SUPER * CLOTHES), (SUPER * SIZE, SUPER * SIZE), 1, -1)
    return _shrunk(hair), _shrunk(skin), _shrunk(clothes)


def clip(count=6, pan=0.0, seed=0, step=1.5, hanging=False, collar=0):
    """A head that sways by `step` pixels a picture; pan: pixels a picture by which the camera turns.

    hanging: a picture in colours of skin hangs on the wall, always touching the head. collar: rows of the neck that
    clothes cover beside its middle, though the fitted head reaches down to CLOTHES.
    """
    rng = np.random.default_rng(seed)
    behind, rgb, alphas, heads = wall(seed), [], [], []
    if hanging:
        behind[60:110, 120:145] = (215, 165, 140)
    for i in range(count):
        x, y = 80 + step * np.sin(i) * 2, 74 + step * np.cos(i)
        hair, skin, clothes = _layers(x, y, seed)
        clothes[CLOTHES - collar:CLOTHES, :round(x) - 6] = clothes[CLOTHES - collar:CLOTHES, round(x) + 6:] = 1
        shift = np.array([[1, 0, -10 - pan * i], [0, 1, -10]], np.float32)
        image = cv2.warpAffine(behind, shift, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
        grain = 12 * rng.normal(size=(SIZE, 1, 1))
        for cover, colour in ((hair, (60, 35, 20) + grain), (skin, (215, 165, 140)), (clothes, (180, 30, 60))):
            image = image * (1 - cover[..., None]) + np.asarray(colour) * cover[..., None]
        noisy = image + rng.normal(size=image.shape)
        rgb.append(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
        alphas.append((1 - (1 - hair) * (1 - skin)) * (1 - clothes))
        skull = np.zeros((SIZE * SUPER, SIZE * SUPER), np.float32)
        _ellipse(skull, (x, y - 3), (30, 41))
        fitted = np.maximum(_shrunk(skull), skin)
        fitted[CLOTHES:] = 0
        heads.append(fitted.astype(np.float32))
    return Clip(np.stack(rgb), np.stack(alphas).astype(np.float32), np.stack(heads))
