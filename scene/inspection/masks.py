"""Masks and repeated pictures, from what is known of every picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from scene.dataset import Dataset
from scene.inspection.findings import Finding
from scene.inspection.subject import Subject
from scene.picture_facts import BLACK, HALF
from utils.images import read_image

LABEL = 20  # of 255: a largest alpha up to it is a label, not a faint mask
REPEATED = 0.1  # share of frames


def mask_findings(subject: Subject) -> Iterator[Finding]:
    """Are there masks with a head in them, and anything around it?"""
    facts, frames = subject.facts, np.array(subject.frames)
    high = max(fact.high for fact in facts)
    if high <= HALF:
        cause = ("labels 0 and 1 instead of 0 and 255; multiply the masks by 255" if 0 < high <= LABEL
                 else "masks of half transparency" if high else _empty_cause(subject.dataset, subject.frames[0]))
        yield Finding(True, f"{subject.name(subject.frames[0])}: wanted a mask of the head, 255 there and 0 around, "
                            f"found an alpha of at most {high} of 255 in all {len(facts)} pictures. Likely cause: "
                            f"{cause}")
        return
    empty = frames[[fact.is_empty for fact in facts]]
    full = frames[[fact.is_full for fact in facts]]
    dark = frames[[fact.light < BLACK and not fact.is_empty for fact in facts]]
    uncut = ("no matting was done; track.py makes masks" if not subject.whole else
             "wrong files in image_mask/, or a mask that lies in another channel than the first")
    for found, text in ((empty, "wanted a head in the mask, found it empty. Likely cause: matting failed there"),
                        (full, f"wanted a mask that is 0 around the head, found 255 everywhere. Likely cause: {uncut}"),
                        (dark, "the picture is black where the head is")):
        if len(found):
            yield Finding(len(found) > len(facts) / 2,
                          f"{subject.names(found)}: {text} ({len(found)} of {len(facts)} pictures)")


def _empty_cause(dataset: Dataset, frame: int) -> str:
    """Why a mask is empty: perhaps what is wanted lies in another channel of its file."""
    record = dataset.frames[frame]
    if record.mask_path is not None:
        stored = read_image(record.mask_path)
        names = [name for name, plane in zip(("red", "green", "blue"), np.moveaxis(stored.rgb, 2, 0), strict=True)
                 if plane.max() > HALF]
        if stored.alpha is not None and stored.alpha.min() < HALF < stored.alpha.max():
            names.append("alpha")
        if names:
            return f"the mask lies in the {' and '.join(names)} channel; the first (red) one is read"
    return "the matting step failed, or its result was not written into the alpha channel"


def repeat_findings(subject: Subject) -> Iterator[Finding]:
    """Frames that say nothing new: of padded videos, or trackers that stood still."""
    data, count = subject.dataset, subject.dataset.frame_count
    checksums = [facts.checksum for facts in subject.facts]
    twice = [frame for number, frame in enumerate(subject.frames) if checksums[number] in checksums[max(0, number - 3):
                                                                                                    number]]
    records = torch.cat([data.R.flatten(1), data.t, data.expression, data.jaw, data.eyes, data.eyelids], dim=1)
    still = (1 + np.flatnonzero((records[1:] == records[:-1]).all(dim=1).numpy())).tolist()
    for frames, total, what, cause in (
            (twice, len(subject.frames), "the picture of a frame just before", "a video of a lower rate was padded"),
            (still, count, "camera and codes of the frame before", "the tracker stood still or frames were copied")):
        if len(frames) > REPEATED * total:
            yield Finding(False, f"{subject.names(frames)}: repeats {what}; {cause}, and "
                                 "held-out frames may be known from training")


def empty_targets(dataset: Dataset, frames: Sequence[int], samples: int = 24) -> str | None:
    """Why pictures of `frames` are no test (all black or without a head), or None.

    All frames are looked at, or `samples` of them when streaming.
    """
    if dataset.background is not None:  # the target is the whole photograph
        return None
    if dataset.images_by_size is None and len(frames) > samples:
        frames = [frames[i * len(frames) // samples] for i in range(samples)]
    facts = dataset.facts(frames)
    if not facts or not all(fact.is_empty or fact.light < BLACK for fact in facts):
        return None
    high, share = max(fact.high for fact in facts), max(fact.share for fact in facts)
    return (f"{dataset.frames[frames[0]].image_path}: the target is black in all {len(facts)} frames that were looked "
            f"at (largest alpha {high} of 255, head {share:.2%} of the picture); scores against black pictures say "
            "nothing. Mend the masks; python train.py --check_only looks at them")
