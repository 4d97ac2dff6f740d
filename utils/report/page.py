"""The page's parts as plain records, and the template that lays them out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.atomic import write_text

TEMPLATE = Path(__file__).with_name("template.html")


@dataclass(frozen=True)
class Card:
    """A headline number: label, value as text, unit, a definition, and optionally a comparison under it."""

    label: str
    value: str
    unit: str
    definition: str
    comparison: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text; cells may be Markup. The first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI with its caption."""

    source: str
    caption: str


@dataclass(frozen=True)
class Strip:
    """Pictures of one frame in a row."""

    title: str
    subtitle: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Verdict:
    """One area's gain: name, signed text ("+1.3 dB"), length of its bar in [0,1], whether it is a gain."""

    area: str
    text: str
    length: float
    better: bool


@dataclass(frozen=True)
class Comparison:
    """This run against the one without blendshapes."""

    summary: str
    verdicts: Sequence[Verdict]
    table: Table
    strips: Sequence[Strip] = ()


@dataclass(frozen=True)
class Page:
    """Everything the report shows; empty parts are left out of it.

    facts: short "name: value" pairs under the title. video: data URI or relative path. error_colors: CSS colours from
    no to largest error, with error_limit the error at the end. settings: group -> name -> value.
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    cards: Sequence[Card]
    reasons: Sequence[str] = ()
    comparison: Comparison | None = None
    protocols: Table | None = None
    areas: Table | None = None
    groups: Table | None = None
    video: str = ""
    video_caption: str = ""
    frame_charts: Sequence[Markup] = ()
    training_charts: Sequence[Markup] = ()
    strips: Mapping[str, Sequence[Strip]] = field(default_factory=dict)
    error_colors: Sequence[str] = ()
    error_limit: float = 0.0
    definitions: Sequence[tuple[str, str]] = ()
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, str] = field(default_factory=dict)


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file, atomically. Raises utils.atomic.WriteError."""
    write_text(path, rendered(TEMPLATE, page=page))


def rendered(template: Path, **values: object) -> str:
    """A template filled in; it may include files beside itself and this package's base.css."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def data_uri(content: bytes, media_type: str) -> str:
    """`content` as a URI that carries it, e.g. media_type "image/jpeg"."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
