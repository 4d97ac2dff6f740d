"""From a rough matte to one with soft hair: colour sampling in the unknown band, tidying, the cut at the neck."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.records import Floats

ByteImage = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Lengths are shares of the head's unit: the square root of the area of the fitted head's silhouette.
BAND_INSIDE, BAND_OUTSIDE = 0.035, 0.07  # how far hair stays uncertain on either side of the rough border
CORE = 0.03            # the fitted face is trusted so far inside its silhouette
LOOSE = 0.10           # and skull and ears so much further
FIRM = 0.98            # of a silhouette: values from which on it is trusted
NECK_SOFT = 0.05       # height of the ramp of the cut
CONTRAST = 24.0        # 8-bit levels between hair and background, from which on their mixture tells alpha
MISFIT = 20.0          # 8-bit levels off every mixture, at which a pixel's own alpha loses against the rough border
STRAND_GAP = 0.02      # a piece of hair this near to the rest is no island
HOLE, LARGE_HOLE = 0.0005, 0.05  # of the silhouette's area: holes that are mistakes at any rate, or if unlike the wall
COLOUR_REACH = (0.09, 0.012)  # shares of the picture's side: how far colours are gathered, coarsely and finely
HAZE = 0.05            # alpha below it (above its complement) is noise of the colour sampling


@dataclass(frozen=True, eq=False)
class HeadShape:
    """What the fitted head says of a picture: its silhouette [S,S], the part of it that landmarks hold in place [S,S],
    its unit in pixels, the neck's cut (rows [S])."""

    mask: Mask
    firm: Mask
    unit: float
    cut: Floats

    @staticmethod
    def of(silhouette: Floats) -> HeadShape | None:
        """From a silhouette [S,S] in 0 .. 1 that ends at the lower ring of the neck; None where it is empty.

        Values below FIRM mark parts (skull, ears) that may lie beside the head in the picture.
        """
        mask = silhouette >= 0.5
        if not mask.any():
            return None
        return HeadShape(mask, silhouette >= FIRM, float(np.sqrt(mask.sum())), _neck_line(mask))

    def without(self, clothes: Mask) -> HeadShape:
        """The same where clothes [S,S] cover none of the neck."""
        if not clothes.any():
            return self
        return replace(self, mask=self.mask & ~clothes, firm=self.firm & ~clothes)

    @cached_property
    def halved(self) -> HeadShape:
        """The same for a picture of half the size."""
        return HeadShape(self.mask[::2, ::2], self.firm[::2, ::2], self.unit / 2, self.cut[::2] / np.float32(2))

    @cached_property
    def _depths(self) -> tuple[Floats, Floats]:
        """How many pixels deep each lies in the firm part and in the whole [S,S]."""
        return depth(self.firm), depth(self.mask)

    def core(self, margin: float) -> Mask:
        """What is head whatever the colours say [S,S]: `margin` units inside, at skull and ears LOOSE more."""
        firm, whole = self._depths
        return (firm > margin * self.unit) | (whole > (margin + LOOSE) * self.unit)


def _neck_line(mask: Mask) -> Floats:
    """The row in each column [S] below which the neck is cut off; beyond the picture where the neck leaves it.

    Within the neck it is the silhouette's lower end, beside it the straight line that fits that end best: hair there
    is cut at the height of the neck.
    """
    size = len(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    last = size - 1 - np.argmax(mask[::-1], axis=0)
    columns = np.flatnonzero(mask.any(axis=0) & (last >= rows[-1] - 0.1 * (rows[-1] - rows[0])))
    ring = np.where(last[columns] >= size - 1, 1.25 * size, last[columns] + 1.0)
    centre = columns.mean()
    slope = np.sum((columns - centre) * ring) / max(np.sum((columns - centre) ** 2), 1.0)
    line = ring.mean() + np.clip(slope, -0.3, 0.3) * (np.arange(mask.shape[1]) - centre)
    line[columns] = np.maximum(line[columns], ring)
    sigma = 0.05 * np.sqrt(mask.sum())
    return np.asarray(
        cv2.GaussianBlur(line[None], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[0], np.float32)


def neck_ramp(shape: HeadShape) -> Floats:
    """[S,S]: 1 above the cut of the neck, 0 below it, a smooth step of NECK_SOFT units between."""
    height = max(3.0, NECK_SOFT * shape.unit)
    ramp = np.ones(shape.mask.shape, np.float32)
    first = int(np.clip(shape.cut.min() - height, 0, len(ramp)))
    rows = np.arange(first, len(ramp), dtype=np.float32)[:, None]
    x = np.clip((shape.cut[None] - (rows + np.float32(0.5))) / np.float32(height), 0, 1)
    ramp[first:] = x * x * (3 - 2 * x)
    return ramp


def disc(radius: float) -> ByteImage:
    """Structuring element of a radius in pixels, 1 at least."""
    n = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n, n)), np.uint8)


def depth(mask: Mask) -> Floats:
    """How many pixels it is from each pixel of a mask to the next one outside; the border of the picture is no edge."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3), np.float32)


def grow(mask: Mask, radius: float) -> Mask:
    """Dilate by `radius` pixels."""
    return depth(~mask) <= radius


def shrink(mask: Mask, radius: float) -> Mask:
    """Erode by `radius` pixels."""
    return depth(mask) > radius


@dataclass(frozen=True, eq=False)
class Plate:
    """The still background: colour float32 [S,S,3]; known [S,S], where the clip showed it; noise in 8-bit levels."""

    colour: Floats
    known: Mask
    noise: float


def refine_alpha(image: ByteImage, rough: Floats, shape: HeadShape, plate: Plate | None) -> Floats:
    """Alpha float32 [S,S] from a rough matte [S,S] in 0 .. 1 of head and hair; plate: of half the size.

    Deep inside it is 1, far outside 0; in the band between, each pixel is taken as the mixture of a foreground and a
    background colour: I = a F + (1 - a) B. Of the colours of its surroundings that pair is taken that best explains its
    block of two by two pixels.
    """
    size, head = len(rough), shape.halved
    half, small = (_resized(whole, len(head.mask)) for whole in (image, rough))
    inside = small >= 0.5
    sure = shrink(inside, BAND_INSIDE * head.unit) | head.core(CORE)
    sure_not = ~grow(inside | head.mask, BAND_OUTSIDE * head.unit)
    unknown = ~(sure | sure_not)
    if not (sure.any() and sure_not.any() and unknown.any()):
        return rough.astype(np.float32)
    blocks = np.flatnonzero(unknown)
    front = _surroundings(half, sure, blocks, head.unit)
    back = _surroundings(half, sure_not, blocks, head.unit)
    if plate is not None:
        back = [*back, np.where(plate.known.ravel()[blocks], _gathered(plate.colour, blocks), back[0])]
    pixels = _pixels(blocks, size)
    value, trust = _unmix(_gathered(image, pixels), *_best_pair(_gathered(half, blocks), front, back))
    prior = _resized(cv2.GaussianBlur(small, (0, 0), max(0.5, 0.012 * head.unit)), size).ravel()[pixels]
    alpha = _full_size(sure, size).astype(np.float32)
    alpha.ravel()[pixels] = trust * value + (1 - trust) * prior
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    smooth = guided_filter(grey, alpha, max(2, round(0.012 * shape.unit)), 4e-4).ravel()[pixels]
    alpha.ravel()[pixels] = np.clip((smooth - HAZE) / (1 - 2 * HAZE), 0, 1)
    return alpha


def _pixels(blocks: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """The numbers [4,n] of the pixels of blocks [n] of two by two; a picture's odd last row or column stands twice."""
    row, column = divmod(blocks, -(-size // 2))
    rows, columns = ((at, np.minimum(at + 1, size - 1)) for at in (2 * row, 2 * column))
    return np.stack([y * size + x for y in rows for x in columns])


def _surroundings(colours: ByteImage, where: Mask, wanted: NDArray[np.intp], unit: float) -> list[Floats]:
    """Candidate colours [3,n] of one side for some pixels (their numbers [n]): the nearest one, and means of two
    sizes about it."""
    labels = cv2.distanceTransformWithLabels(
        (~where).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1].ravel()
    own = np.flatnonzero(where)
    pixel_of = np.zeros(len(own) + 1, np.intp)
    pixel_of[labels[own]] = own
    found = [_gathered(colours, pixel_of[labels[wanted]])]
    masked = cv2.copyTo(cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA), where.astype(np.uint8)).astype(np.float32)
    for radius in (0.06 * unit, 0.2 * unit):
        *mean, count = _wide_mean(masked, 2 * round(radius) + 1, wanted)
        found.append(np.where(count > 0.255, np.stack(mean) / np.maximum(count, 0.255) * 255, found[0]))
    return found


def _wide_mean(values: Floats, side: int, wanted: NDArray[np.intp]) -> Floats:
    """Means [C,n] of values [S,S,C] over windows of about `side` pixels about the pixels of some numbers [n], taken of
    a picture so small that a window still has seven pixels a side.
    """
    size = len(values)
    small = _smaller(size, side)
    row, column = (at * small // size for at in divmod(wanted, size))
    return _gathered(_mean(_resized(values, small), (_odd(side * small / size),) * 2), row * small + column)


def _gathered(values: NDArray[Any], numbers: NDArray[np.intp]) -> Floats:
    """[S,S,C] at the pixels of some numbers [...] -> [C,...]: sums over the channels are then sums of rows, several
    times faster.
    """
    return np.stack([channel.ravel().take(numbers) for channel in cv2.split(values)]).astype(np.float32, copy=False)


def _best_pair(pixel: Floats, front: list[Floats], back: list[Floats]) -> tuple[Floats, Floats]:
    """The pair of colours [3,n], one of each side, whose mixtures come nearest to the pixels [3,n]."""
    best = np.full(pixel.shape[1], np.inf, np.float32)
    first, second = (np.zeros(len(best), np.uint8) for _ in range(2))
    for j, b in enumerate(back):
        above = pixel - b
        apart = _dot(above, above)
        for i, f in enumerate(front):
            axis = f - b
            length = np.maximum(_dot(axis, axis), np.float32(1e-3))
            along = _dot(above, axis)
            share = np.clip(along / length, 0, 1)
            square = np.maximum(apart - share * (2 * along - share * length), 0)
            # a pair of nearly equal colours explains its own mixture well and says nothing of alpha
            cost = np.sqrt(square) + np.float32(4 * CONTRAST) / np.sqrt(length + np.float32(16))
            better = cost < best
            for kept, value in ((best, cost), (first, i), (second, j)):
                np.copyto(kept, value, where=better)
    return np.choose(first, front), np.choose(second, back)


def _unmix(pixels: Floats, front: Floats, back: Floats) -> tuple[Floats, Floats]:
    """Alpha [k,n] of pixels [3,k,n] as mixtures of two colours [3,n], and how far to trust it [k,n] in 0 .. 1
    (contrast and fit)."""
    axis, above = (front - back)[:, None], pixels - back[:, None]
    length = np.maximum(_dot(axis, axis), np.float32(1e-3))
    alpha = np.clip(_dot(above, axis) / length, 0, 1)
    above -= alpha * axis
    return alpha, np.minimum(1, length / CONTRAST**2) * np.exp(-_dot(above, above) / MISFIT**2)


def _dot(first: Floats, second: Floats) -> Floats:
    """Inner products of three channels [3,...]."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def guided_filter(guide: ByteImage, source: Floats, radius: int, eps: float) -> Floats:
    """Smooth `source` [S,S] along the edges of the grey `guide` [S,S] (He et al., Guided Image Filtering, 2010). Their
    relation in windows of `radius` pixels changes slowly: it is worked out for every second row and column.
    """
    size = len(guide)
    window = (_odd((2 * radius + 1) / 2),) * 2

    def mean(x: Floats) -> Floats:
        return _mean(_resized(x, -(-size // 2)), window)

    g = guide.astype(np.float32) / np.float32(255)
    g_mean, s_mean = mean(g), mean(source)
    slope = (mean(g * source) - g_mean * s_mean) / (mean(g * g) - g_mean**2 + np.float32(eps))
    slope, level = (_resized(_mean(x, window), size) for x in (slope, s_mean - slope * g_mean))
    return np.clip(slope * g + level, 0, 1)


def foreground_colours(image: ByteImage, alpha: ByteImage) -> ByteImage:
    """The colours uint8 [S,S,3] of head and hair without the background that shines through where alpha is partial.

    image uint8 RGB [S,S,3], alpha uint8 [S,S]. Foreground and background are first averaged about each pixel with
    their shares as weights, then the foreground is moved so that the mixture gives the picture's colour again
    (Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021); once coarsely, once finely.
    """
    partial = (alpha > 0) & (alpha < 255)  # elsewhere it is the picture's colour, or there is none to find
    result = image.copy()
    if not partial.any():
        return result
    size, coarse, fine = len(image), *(2 * max(2, round(part * len(image))) + 1 for part in COLOUR_REACH)
    colour, share = image.astype(np.float32), alpha.astype(np.float32) / np.float32(255)
    small = _smaller(size, coarse)
    sides = _unmixed(_resized(colour, small), _resized(share, small), None, _odd(coarse * small / size))
    at = _window(partial, fine)
    front, _ = _unmixed(colour[at], share[at], tuple(_resized(values, size)[at] for values in sides), fine)
    result[partial] = np.clip(np.round(front[partial[at]]), 0, 255)
    return result


def _unmixed(
    colour: Floats, share: Floats, sides: tuple[Floats, ...] | None, side: int
) -> tuple[Floats, Floats]:
    """Foreground and background [H,W,3]: means of `sides` (None: of the picture), each [H,W,3], over windows of `side`
    pixels, weighted by how pure pixels are, the foreground moved so that the mixture by `share` [H,W] is `colour`
    [H,W,3].
    """
    # the cubes let nearly pure pixels tell the colours, so that wide soft borders mix little of the other side in
    pure = share * share * share, (1 - share) * (1 - share) * (1 - share)
    window, three = (side, side), cv2.merge((share,) * 3)
    # three equal channels multiply several times faster than one that is broadcast
    front, back = (_mean(values * cv2.merge((weight,) * 3), window)
                   / (cv2.merge((_mean(weight, window),) * 3) + np.float32(1e-6))
                   for values, weight in zip(sides or (colour, colour), pure, strict=True))
    return front + three * (colour - three * front - (1 - three) * back), back


def _smaller(size: int, window: int) -> int:
    """The side of a picture, smaller by a power of two (OpenCV's fast way), in which a window has some seven pixels."""
    return -(-size // 2 ** max(0, int(np.log2(window / 7))))


def _odd(side: float) -> int:
    """The odd number of pixels nearest to `side`."""
    return 2 * round((side - 1) / 2) + 1


def _resized(values: NDArray[Any], size: int) -> NDArray[Any]:
    """[S,S,C] or [S,S] -> [size,size,...] of the same type: means of areas, or straight lines between pixels."""
    if len(values) == size:
        return values
    return cv2.resize(values, (size, size), interpolation=(
        cv2.INTER_AREA if size < len(values) else cv2.INTER_LINEAR))


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask that is not empty, and a margin."""
    row, column = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (slice(max(row[0] - margin, 0), row[-1] + margin + 1),
            slice(max(column[0] - margin, 0), column[-1] + margin + 1))


def _mean(values: Floats, window: tuple[int, int]) -> Floats:
    return np.asarray(cv2.boxFilter(values, -1, window), np.float32)


def tidy(alpha: Floats, shape: HeadShape) -> Floats:
    """The fitted head is opaque, and what hangs together with it nowhere goes."""
    alpha = np.where(_full_size(shape.halved.core(CORE), len(alpha)) > 0, np.float32(1), alpha)
    return _without_islands(alpha, shape)


def cut_at_neck(alpha: ByteImage, head: Mask) -> ByteImage:
    """Alpha uint8 [S,S] cut softly at the lower end of the fitted head [s,s], drawn smaller or as large; 0 where it is
    not in the picture.
    """
    shape = HeadShape.of(head.astype(np.float32))
    if shape is None:
        return np.zeros_like(alpha)
    ramp = cv2.resize(neck_ramp(shape), alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(alpha, ramp, dtype=cv2.CV_8U), np.uint8)


def _without_islands(alpha: Floats, shape: HeadShape) -> Floats:
    head = shape.halved
    seen = cv2.resize((alpha > 0.1).astype(np.uint8) * 255, head.mask.shape, interpolation=cv2.INTER_AREA) > 0
    pieces = cv2.connectedComponents(cv2.dilate(seen.astype(np.uint8), disc(STRAND_GAP * head.unit / 2)))[1]
    # what is fainter than the threshold belongs to the piece that it surrounds
    kept = cv2.dilate(linked(pieces, head.mask).astype(np.uint8), disc(0.02 * head.unit)) > 0
    return np.asarray(cv2.copyTo(alpha, _full_size(kept, len(alpha))), np.float32)


def linked(pieces: NDArray[Any], seeds: Mask) -> Mask:
    """The pieces [S,S] (0 = none) that hold one of the seeds [S,S]."""
    keep = np.zeros(pieces.max() + 1, bool)
    keep[pieces[seeds]] = True
    keep[0] = False
    return np.asarray(keep[pieces])


def _full_size(mask: Mask, size: int) -> ByteImage:
    """A mask of a picture of half the size [size,size]."""
    large = cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def fill_holes(rough: Mask, shape: HeadShape, like_background: Mask | None) -> Mask:
    """A rough mask without the holes that are mistakes: small ones, and those that do not look like the background.

    like_background [S,S]: where the picture agrees with the known still background; None where there is no such.
    """
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((~rough).astype(np.uint8), connectivity=4)
    size = len(rough)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    area = stats[:, cv2.CC_STAT_AREA] / shape.unit**2
    enclosed = (left > 0) & (top > 0) & (right < size) & (bottom < size)
    mistaken = area < LARGE_HOLE
    if like_background is not None:
        share = np.bincount(pieces.ravel(), like_background.ravel(), count) / stats[:, cv2.CC_STAT_AREA]
        mistaken &= (share < 0.5) | (area < HOLE)
    fill = enclosed & mistaken
    fill[0] = False
    return rough | fill[pieces]
