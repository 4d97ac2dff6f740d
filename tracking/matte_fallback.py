"""Cutting a head out without a network: GrabCut seeded by the fitted head and by the clip's own still background.

Colour models are learned once over the clip, so that all pictures are cut alike. Works at half size or 256 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.matte_refine import ByteImage, HeadShape, Mask, Plate, disc, fill_holes, grow, linked, shrink
from tracking.records import Floats

WORK = 256             # pixels a side: where GrabCut works
SAMPLES = 12           # pictures that the models are learned from
NEAR = 0.10            # units about the head that are hair unless the colours deny it
REACH_TOP, REACH_BOTTOM = 0.5, 1.1  # units about the head beyond which is no hair, at crown and neck
STILL = 5.0            # 8-bit levels: a background that varies less over the clip stands still
BINS = 16              # of a colour histogram, per channel
FAR = 0.4              # units about the head beyond which there is background
GAP = 0.02             # units: narrower gaps in the changing border of a head do not let the background in
SWAY = 0.03            # units that a head must move for its border to show
LOW, COLLAR = 0.35, 0.25  # units above the neck's cut: how high a shirt of hair's colours reaches, and a collar
SEED = 0.04            # units inside the fitted head, where GrabCut need not look
THIN = 0.02            # units: thinner things beside the head are taken out of the rough mask
NO_RECTANGLE = (0, 0, 1, 1)  # GrabCut asks for one even where a mask replaces it
ROUNDS = 3             # of GrabCut for the first guess

Models = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture at working size [s,s,3] and what the fitted head says of it."""

    image: ByteImage
    shape: HeadShape

    @property
    def rows(self) -> int:
        """How many rows lie above the lowest point of the neck's cut."""
        return int(np.clip(np.ceil(self.shape.cut.max()) + 2, 8, len(self.image)))


def working(image: ByteImage, silhouette: Floats) -> Sample | None:
    """A picture and its silhouette at working size; None where the head is not in the picture."""
    side = min(WORK, len(image))
    small = cv2.resize(silhouette, (side, side), interpolation=cv2.INTER_AREA)
    shape = HeadShape.of(np.asarray(small, np.float32))
    if shape is None:
        return None
    return Sample(np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8), shape)


class Cutter:
    """Rough masks of head and hair, with models learned from some pictures of the clip."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.still = still_surroundings(samples)
        self.plate: Plate | None = self.still
        self.clothes: Clothes | None = None
        rough, heads = _first_guess(samples, [self._seeds(s, self.clothing(s)) for s in samples])
        self.plate = _both_plates(self.still, estimate_plate(samples, heads))
        self.clothes = clothing_colours(samples, heads)
        self.models = _better(rough, samples, [self._seeds(s, self.clothing(s)) for s in samples])

    def cut(self, sample: Sample, clothes: Mask) -> Mask:
        """Rough mask [s,s] of head, hair and neck. clothes: see `clothing`."""
        rows, seeds, shape = sample.rows, self._seeds(sample, clothes), sample.shape.without(clothes)
        # The models are learned from the whole fitted head, hair over the ears included; here colours may overrule it.
        seeds[(seeds == cv2.GC_FGD) & ~shape.core(SEED)[:rows]] = cv2.GC_PR_FGD
        back, front = (m.copy() for m in self.models)
        if _both(seeds):
            cv2.grabCut(sample.image[:rows], seeds, NO_RECTANGLE, back, front, 1, cv2.GC_EVAL_FREEZE_MODEL)
        rough = _full(sample, _is_front(seeds)).astype(np.uint8)
        # what is thinner than hair that hangs together is left to the refinement, which sees its true colours
        thick = cv2.morphologyEx(rough, cv2.MORPH_OPEN, disc(THIN * shape.unit)) > 0
        # Hair hangs over skull and ears: they close holes between its strands, but where colours deny them they go.
        filled = fill_holes(thick | shape.mask, shape, self._wall(sample))
        return filled & (thick | ~shape.mask | shape.core(0))

    def _wall(self, sample: Sample) -> Mask | None:
        """Where the picture agrees with the known still background [s,s]."""
        return None if self.plate is None else _shows(sample, self.plate)

    def _seeds(self, sample: Sample, clothes: Mask) -> ByteImage:
        """GrabCut's labels for the rows above the cut."""
        shape, rows = sample.shape, sample.rows
        distance = cv2.distanceTransform((~shape.mask).astype(np.uint8), cv2.DIST_L2, 3) / shape.unit
        seeds = np.where(distance < NEAR, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        if self.still is not None:  # before such a background everything else is the person
            seeds[~self.still.known & (np.arange(len(seeds))[:, None] < shape.cut - LOW * shape.unit)] = cv2.GC_PR_FGD
        if self.plate is not None:
            seeds[self.plate.known & (_unlike(sample, self.plate) > 6 * self.plate.noise + 20)] = cv2.GC_PR_FGD
            seeds[_shows(sample, self.plate)] = cv2.GC_BGD
        seeds[distance > _reach(shape.mask)] = cv2.GC_BGD
        seeds[shrink(shape.mask, SEED * shape.unit)] = cv2.GC_FGD
        if self.still is not None:
            seeds[_shows(sample, self.still) & ~shape.core(SEED)] = cv2.GC_BGD
        seeds[clothes] = cv2.GC_BGD
        return np.ascontiguousarray(seeds[:rows])

    def clothing(self, sample: Sample) -> Mask:
        """Where there are clothes [s,s], empty where none are known; what the fitted neck covers included."""
        shape = sample.shape
        if self.clothes is None:
            return np.zeros_like(shape.mask)
        bins, rows = _bins(sample.image), np.arange(len(sample.image))[:, None]
        below = rows >= np.minimum(shape.cut, len(rows) - 1)
        beside = ~grow(shape.mask, 0.02 * shape.unit)
        own = _hanging(self.clothes.own[bins], below) & (_neck(shape) | beside)
        # Hair, skin and shirt of one colour: what stays low beside the neck is the shirt.
        wall = self._wall(sample)
        free = ~shape.mask if wall is None else ~shape.mask & ~wall
        piece = _hanging(self.clothes.shared[bins] & free, below)
        low = ~_linked(piece, piece & (rows < shape.cut - LOW * shape.unit))
        return own | (piece & low & beside)


def _unlike(sample: Sample, plate: Plate) -> Floats:
    """Distance of colours [s,s] from those of the background, 8-bit levels."""
    apart = sample.image - plate.colour
    return np.asarray(np.sqrt(cv2.transform(apart * apart, np.ones((1, 3)))), np.float32)


def _shows(sample: Sample, plate: Plate) -> Mask:
    """Where the picture shows the known background [s,s]."""
    return plate.known & (_unlike(sample, plate) < 4 * plate.noise)


def _linked(mask: Mask, seeds: Mask) -> Mask:
    """The pieces of a mask [s,s] that hold one of the seeds."""
    return linked(cv2.connectedComponents(mask.astype(np.uint8))[1], seeds)


def _hanging(like: Mask, below: Mask) -> Mask:
    """What is like something and hangs together with what of it lies below the neck; single pixels do not count."""
    smooth = cv2.medianBlur(like.astype(np.uint8), 3) > 0
    return _linked(smooth, smooth & below)


def _neck(shape: HeadShape) -> Mask:
    """The lowest part of the fitted head [s,s], which collars may cover."""
    rows = np.arange(len(shape.mask))[:, None]
    return np.asarray(shape.mask & (rows > shape.cut - COLLAR * shape.unit))


def _both(seeds: ByteImage) -> bool:
    front = _is_front(seeds)
    return bool(front.any() and not front.all())


def _is_front(labels: ByteImage) -> Mask:
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _full(sample: Sample, mask: Mask) -> Mask:
    """The rows that were cut off come back empty."""
    return np.pad(mask, ((0, len(sample.image) - len(mask)), (0, 0)))


def _reach(mask: Mask) -> Floats:
    """How far from the head there may be hair [s,1], in units: hair falls."""
    rows = np.flatnonzero(mask.any(axis=1))
    down = np.clip((np.arange(len(mask)) - rows[0]) / max(rows[-1] - rows[0], 1), 0, 1)
    return (REACH_TOP + (REACH_BOTTOM - REACH_TOP) * down)[:, None]


def _first_guess(samples: Sequence[Sample], seeds: Sequence[ByteImage]) -> tuple[Models, list[Mask]]:
    """Colour models of background and head over all samples at once, and the samples' masks; both from pictures of half
    the size."""
    halves = [(part.shape[1] // 2, len(part) // 2) for part in seeds]
    image = np.concatenate([cv2.resize(s.image[:s.rows], half, interpolation=cv2.INTER_AREA)
                            for s, half in zip(samples, halves, strict=True)])
    labels = np.concatenate([cv2.resize(part, half, interpolation=cv2.INTER_NEAREST)
                             for part, half in zip(seeds, halves, strict=True)])
    back, front = np.zeros((1, 65)), np.zeros((1, 65))
    if _both(labels):
        cv2.setRNGSeed(0)  # the models start by k-means; runs must agree
        cv2.grabCut(image, labels, NO_RECTANGLE, back, front, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.split(_is_front(labels).astype(np.uint8), np.cumsum([half[1] for half in halves])[:-1])
    return (back, front), [cv2.resize(part, whole.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
                           for part, whole in zip(found, seeds, strict=True)]


def _better(models: Models, samples: Sequence[Sample], seeds: Sequence[ByteImage]) -> Models:
    """The colour models after one more round, of the pictures as they are."""
    labels = np.concatenate(list(seeds))
    if _both(labels):
        cv2.grabCut(np.concatenate([s.image[:s.rows] for s in samples]), labels, NO_RECTANGLE, *models, 1, cv2.GC_EVAL)
    return models


def estimate_plate(samples: Sequence[Sample], heads: Sequence[Mask]) -> Plate | None:
    """The background [s,s,3] as the median over the pictures that show it; None where it does not stand still."""
    free = np.stack([~grow(_full(sample, head) | sample.shape.mask, 0.05 * sample.shape.unit)
                     for sample, head in zip(samples, heads, strict=True)])
    known = free.sum(axis=0) >= max(2, len(samples) // 8)
    if known.sum() < 0.02 * known.size:
        return None
    stack = np.where(free[..., None], np.stack([s.image for s in samples]).astype(np.float32), np.nan)[:, known]
    median = np.nanmedian(stack, axis=0)
    deviation = np.nanmedian(np.abs(stack - median), axis=(0, 2))
    # the worst tenth tells a moving camera before a plain wall behind it hides the motion
    if np.quantile(deviation, 0.9) > STILL:
        return None
    colour = np.zeros(samples[0].image.shape, np.float32)
    colour[known] = median
    return Plate(colour, known, float(max(1.5, 1.5 * np.median(deviation))))


def still_surroundings(samples: Sequence[Sample]) -> Plate | None:
    """The background that hardly ever moves and hangs together with the border, or with what lies far from the
    head; None where there is none.

    Where a head moves, a closed border of changing colours parts its hair from such a background; of one that keeps
    still nothing is said.
    """
    if len(samples) < 4 or not _moves([s.shape for s in samples]):
        return None
    stack = np.stack([s.image for s in samples]).astype(np.float32)
    median = np.median(stack, axis=0).astype(np.float32)
    # the higher the share, the wider the border that sways, which parts a head from the wall
    change = np.quantile(np.abs(stack - median).max(axis=3), 0.9, axis=0)
    shapes = [s.shape for s in samples]
    far = ~np.any([grow(s.mask, FAR * s.unit) for s in shapes], axis=0)
    above = np.all([np.arange(len(median))[:, None] < s.cut for s in shapes], axis=0)
    far &= above
    if far.sum() < 0.002 * far.size or np.quantile(change[far], 0.9) > STILL:
        return None
    noise = float(max(1.5, np.median(change[far])))
    still = above & (change <= max(2.5 * noise, 0.6 * STILL))
    still &= ~np.any([s.core(SEED) for s in shapes], axis=0)
    # a gap in the border is narrower than this
    opened = cv2.morphologyEx(still.astype(np.uint8), cv2.MORPH_OPEN, disc(GAP * shapes[0].unit)) > 0
    border = np.ones_like(far)
    border[1:, 1:-1] = False
    border &= np.all([np.arange(len(median))[:, None] < s.cut - LOW * s.unit for s in shapes], axis=0)
    return Plate(median, _linked(opened, opened & (far | border)), noise)


def _moves(shapes: Sequence[HeadShape]) -> bool:
    """Whether a head goes from one place to another, at least SWAY units."""
    middles = np.array([np.argwhere(shape.mask).mean(axis=0) for shape in shapes])
    return bool(np.ptp(np.quantile(middles, (0.1, 0.9), axis=0), axis=0).max() > SWAY * shapes[0].unit)


def _both_plates(first: Plate | None, second: Plate | None) -> Plate | None:
    """What either plate knows; the first one decides where both do."""
    if first is None or second is None:
        return first or second
    colour = np.where(first.known[..., None], first.colour, second.colour)
    return Plate(np.asarray(colour, np.float32), first.known | second.known, max(first.noise, second.noise))


@dataclass(frozen=True, eq=False)
class Clothes:
    """Colours [BINS**3] frequent below the neck: own, those rare in head, hair and background; shared, the others."""

    own: Mask
    shared: Mask


def clothing_colours(samples: Sequence[Sample], heads: Sequence[Mask]) -> Clothes | None:
    """The colours of what is worn; None where nothing is seen below the neck."""
    above, below = np.zeros(BINS**3), np.zeros(BINS**3)
    for sample, head in zip(samples, heads, strict=True):
        shape, bins = sample.shape, _bins(sample.image)
        rows = np.arange(len(bins))[:, None]
        torso = (rows > shape.cut + 0.04 * shape.unit) & grow(shape.mask, 0.35 * shape.unit)
        # beside the head, above the cut, the first labels may hold clothes themselves: those pixels count nowhere
        other = _full(sample, head) & ((shape.mask & ~_neck(shape)) | (rows < _middle(shape.mask)))
        other |= ~grow(_full(sample, head) | shape.mask, 0.05 * shape.unit) & (rows < _middle(shape.mask))
        above += np.bincount(bins[other], minlength=BINS**3)
        below += np.bincount(bins[torso], minlength=BINS**3)
    if below.sum() < 100 * len(samples):
        return None
    frequent = below > 1e-3 * below.sum()
    own = frequent & (above < 0.05 * below)
    return Clothes(np.asarray(own), np.asarray(frequent & ~own))


def _middle(mask: Mask) -> float:
    """The row halfway down a silhouette."""
    return float(np.flatnonzero(mask.any(axis=1))[[0, -1]].mean())


def _bins(image: ByteImage) -> NDArray[np.uint16]:
    """The histogram bin of each pixel [s,s]."""
    red, green, blue = (channel.astype(np.uint16) * BINS // 256 for channel in cv2.split(image))
    return (red * BINS + green) * BINS + blue


def survey(
    images: Callable[[int], ByteImage], count: int, head_masks: Callable[[int], Floats]
) -> list[Sample]:
    """Pictures at working size, spread evenly over the clip, in which the head is seen."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(int))
    found = (working(images(int(i)), head_masks(int(i))) for i in chosen)
    return [sample for sample in found if sample is not None]
