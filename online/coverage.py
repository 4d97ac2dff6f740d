"""What a recording has seen of a face, and what is still missing: views and expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENOUGH = 4  # kept pictures of a view or expression
TURNED, FAR, NODDED = 12.0, 28.0, 9.0  # degrees from the usual view


@dataclass(frozen=True)
class Need:
    """A view or expression: how the page calls it, and how it asks for it."""

    name: str
    ask: str


VIEWS = {
    "front": Need("straight ahead", "look straight ahead"),
    "left": Need("turned left", "turn your head to the left"),
    "right": Need("turned right", "turn your head to the right"),
    "far left": Need("far left", "turn further to the left"),
    "far right": Need("far right", "turn further to the right"),
    "up": Need("chin up", "lift your chin"),
    "down": Need("chin down", "lower your chin"),
}
# Scores of which all must reach the value.
EXPRESSIONS: dict[str, tuple[Need, Mapping[str, float]]] = {
    "open": (Need("mouth open", "open your mouth wide"), {"jawOpen": 0.4}),
    "smile": (Need("smile", "smile"), {"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4}),
    "pucker": (Need("kiss", "purse your lips, as for a kiss"), {"mouthPucker": 0.5}),
    "shut": (Need("eyes shut", "shut your eyes"), {"eyeBlinkLeft": 0.5, "eyeBlinkRight": 0.5}),
    "brows up": (Need("brows up", "raise your brows"), {"browInnerUp": 0.4}),
    "frown": (Need("frown", "frown"), {"browDownLeft": 0.3, "browDownRight": 0.3}),
    "glance left": (Need("glance left", "glance to the left"), {"eyeLookOutLeft": 0.35}),
    "glance right": (Need("glance right", "glance to the right"), {"eyeLookOutRight": 0.35}),
}


def seen_in(scores: Mapping[str, float], yaw: float, pitch: float) -> set[str]:
    """What one picture shows. scores: MediaPipe's. yaw (to the person's left), pitch (down): degrees, from the usual
    view.
    """
    found = {name for name, (_, wanted) in EXPRESSIONS.items()
             if all(scores.get(score, 0.0) >= least for score, least in wanted.items())}
    if abs(yaw) < TURNED / 2 and abs(pitch) < NODDED:
        found.add("front")
    side = "left" if yaw > 0 else "right"
    if abs(yaw) >= TURNED:
        found.add(f"far {side}" if abs(yaw) >= FAR else side)
    if abs(pitch) >= NODDED:
        found.add("down" if pitch > 0 else "up")
    return found


class Coverage:
    """Counts what the kept pictures show."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys([*VIEWS, *EXPRESSIONS], 0)

    def add(self, found: set[str]) -> None:
        for name in found:
            self.counts[name] += 1

    @property
    def share(self) -> float:
        """0 to 1: how much of what is wanted has been seen."""
        return sum(min(count, ENOUGH) for count in self.counts.values()) / (ENOUGH * len(self.counts))

    def missing(self) -> list[str]:
        """What to ask for, expressions and views in turn."""
        views = [need.ask for name, need in VIEWS.items() if self.counts[name] < ENOUGH]
        faces = [need.ask for name, (need, _) in EXPRESSIONS.items() if self.counts[name] < ENOUGH]
        together = [ask for pair in zip(faces, views, strict=False) for ask in pair]
        return together + faces[len(views):] + views[len(faces):]

    def table(self) -> str:
        """Markdown: each view and expression with what has been seen of it."""
        needs = {**VIEWS, **{name: need for name, (need, _) in EXPRESSIONS.items()}}
        lines = ["| | seen |", "|---|---|"]
        for name, need in needs.items():
            count = min(self.counts[name], ENOUGH)
            lines.append(f"| {need.name} | {'●' * count}{'○' * (ENOUGH - count)} |")
        return "\n".join(lines)
