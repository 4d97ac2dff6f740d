"""Writers: a data set of any layout in the layout of another program. Each is the inverse of a reader's module.

A new one is a function `(folder, source, head)` and a row in WRITERS; `python -m scene.convert` then knows its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flame import Head
from scene.readers import Source
from scene.writers.codes import write_codes
from scene.writers.imavatar import write_imavatar
from scene.writers.insta_transforms import write_insta_transforms
from scene.writers.nerface import write_nerface
from scene.writers.nersemble import write_nersemble
from scene.writers.tracker import write_tracker
from scene.writers.vhap import write_vhap

__all__ = ["WRITERS", "Writer", "write_codes", "write_imavatar", "write_insta_transforms", "write_nerface",
           "write_nersemble", "write_tracker", "write_vhap"]

Writer = Callable[[Path, Source, Head], None]
"""folder: fresh. source: complete (`Source.completed`). head: the model of the tracking."""

WRITERS: dict[str, Writer] = {
    "insta": write_tracker, "vhap": write_vhap, "imavatar": write_imavatar, "insta_transforms": write_insta_transforms,
    "codes": write_codes, "nersemble": write_nersemble, "nerface": write_nerface,
}
