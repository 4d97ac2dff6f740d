"""python -m scene.convert -s DATA -o OUT --to LAYOUT: a data set in the layout of another program (docs/data.md)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from arguments import DataSettings
from scene.data import choose_head, open_data
from scene.readers import AUTO
from scene.writers import WRITERS
from utils.atomic import replacing_folder

Alias = tyro.conf.arg


@dataclass(frozen=True)
class ConvertSettings:
    """Write a data set in the layout of another program."""

    source_path: Annotated[Path, Alias(aliases=["-s"])]
    """Data set folder, of any layout."""
    output: Annotated[Path, Alias(aliases=["-o"])]
    """Folder to write; must be new or empty."""
    to: str
    """Layout to write (docs/data.md)."""
    layout: str = AUTO
    """Layout of the data set; auto looks at what is there."""
    head: str = "auto"
    """Head model of the tracking, as train.py takes it."""


def convert(settings: ConvertSettings) -> None:
    """Write the folder; it appears complete or not at all. Raises ValueError, OSError naming file or flag."""
    if settings.to not in WRITERS:
        raise ValueError(f"--to {settings.to}: unknown; known are {', '.join(WRITERS)}")
    if settings.output.exists() and (not settings.output.is_dir() or any(settings.output.iterdir())):
        raise FileExistsError(f"{settings.output}: exists and is not empty; give another --output")
    data = DataSettings(settings.source_path, layout=settings.layout, head=settings.head)
    source = open_data(data)
    with replacing_folder(settings.output) as folder:
        WRITERS[settings.to](folder, source, choose_head(settings.head, source))


if __name__ == "__main__":
    chosen = tyro.cli(ConvertSettings)
    try:
        convert(chosen)
    except (ValueError, OSError) as error:
        sys.exit(f"scene.convert: {error}")
    print(f"{chosen.output}: written ({chosen.to})")
