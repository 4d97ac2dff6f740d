"""The line that tells a browser that its view is one training never saw."""

from __future__ import annotations

import viser

from gaussian_renderer import Cameras
from player.views import directions, off_seen, seen_directions, words_for
from viewer.picture import Painter
from viewer.state import ViewState


class UnseenNotes:
    """A line under the status for each browser: each has its own camera. Empty while the view is near training's."""

    def __init__(self, painter: Painter) -> None:
        self._seen = seen_directions(painter.player, painter.middle)
        self._notes: dict[int, viser.GuiMarkdownHandle] = {}

    def words(self, painter: Painter, state: ViewState, own: Cameras) -> str:
        """What to say of the view of a state from `own`; nothing where training saw the head from about there."""
        if state.compare:
            return ""
        skull = painter.player.rig.with_codes(painter.codes(state)).posed.head_rigid
        camera = painter.camera(state, own).centers
        return words_for(off_seen(directions(skull, camera, painter.middle)[0], self._seen))

    def show(self, client: viser.ClientHandle, words: str, order: float) -> None:
        """Put the words where the client's panel has `order`."""
        note = self._notes.get(client.client_id)
        content = f"*{words}*" if words else ""
        if note is None:
            if words:
                self._notes[client.client_id] = client.gui.add_markdown(content, order=order)
        elif note.content != content:
            note.content, note.visible = content, bool(words)

    def forget(self, client_id: int) -> None:
        self._notes.pop(client_id, None)
