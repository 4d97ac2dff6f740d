"""The line that tells a browser that its view is one training never saw."""

from __future__ import annotations

import viser

from gaussian_renderer import Cameras
from player.views import directions, off_seen, seen_directions, words_for
from viewer.camera import browser_camera
from viewer.picture import Painter
from viewer.state import ViewState


class UnseenNotes:
    """A line under the status for each browser: each has its own camera. Empty while the view is near training's."""

    def __init__(self, painter: Painter) -> None:
        self._seen = seen_directions(painter.player, painter.middle)
        self._notes: dict[int, viser.GuiMarkdownHandle] = {}
        self._told: dict[int, tuple[int, float]] = {}  # version and camera's time that a line belongs to

    def words(self, painter: Painter, state: ViewState, own: Cameras) -> str:
        """What to say of the view of a state from `own`; nothing where training saw the head from about there."""
        if state.compare:
            return ""
        skull = painter.player.rig.with_codes(painter.codes(state)).posed.head_rigid
        camera = painter.camera(state, own).centers
        return words_for(off_seen(directions(skull, camera, painter.middle)[0], self._seen))

    def tell(self, client: viser.ClientHandle, painter: Painter, state: ViewState, version: int, order: float) -> None:
        """Bring a browser's line, at `order` of its panel, in line with its camera and the state of that version."""
        now = version, client.camera.update_timestamp
        if self._told.get(client.client_id) == now:
            return
        self._told[client.client_id] = now
        camera = client.camera
        try:
            own = browser_camera(camera.wxyz, camera.position, camera.fov, camera.image_width, camera.image_height)
            words = self.words(painter, state, own)
        except ValueError:  # a camera that is none draws no picture either, and the page says so there
            return
        self._show(client, f"*{words}*" if words else "", order)

    def forget(self, client_id: int) -> None:
        """Drop what is known of a browser that left."""
        self._notes.pop(client_id, None)
        self._told.pop(client_id, None)

    def _show(self, client: viser.ClientHandle, content: str, order: float) -> None:
        note = self._notes.get(client.client_id)
        if note is not None and note.content != content:
            note.content, note.visible = content, bool(content)
        elif note is None and content:
            self._notes[client.client_id] = client.gui.add_markdown(content, order=order)
