"""The page of live.py: the camera's picture beside the avatar, what is still missing, and the button that ends it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import viser
from numpy.typing import NDArray

from utils.images import letterbox
from viewer.panel import assign
from viewer.server import PageServer

log = logging.getLogger("live")

ByteImage = NDArray[np.uint8]
INTERVAL = 1 / 15  # seconds between pictures
LONGEST = 1280  # pixels of a window's side; larger ones are drawn smaller
QUALITY = 80  # JPEG


class LivePage:
    """Shows what it was last given, to all browsers, from a thread of its own until `close`.

    stop: called when somebody presses the button.
    """

    def __init__(self, server: PageServer) -> None:
        self._server = server
        self.stop: Callable[[], None] = lambda: None
        self._camera: ByteImage | None = None
        self._avatar: ByteImage | None = None
        self._share = 0.0
        self._version, self._shown = 0, dict[int, tuple[int, int, int]]()
        gui = server.gui
        server.scene.world_axes.visible = False
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="medium")
        gui.main_panel.dock_right()
        self.status = gui.add_markdown("Starting ...")
        self.ask = gui.add_markdown("")
        self.progress = gui.add_progress_bar(0.0)
        self.table = gui.add_markdown("")
        button = gui.add_button("Stop and keep the avatar", icon=viser.Icon.PLAYER_STOP)
        button.on_click(lambda _: self.stop())
        server.on_client_disconnect(lambda client: self._forget(client.client_id))
        self._new, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, camera: ByteImage | None = None, avatar: ByteImage | None = None) -> None:
        """Another picture of the camera or of the avatar."""
        with self._new:
            self._camera = self._camera if camera is None else camera
            self._avatar = self._avatar if avatar is None else avatar
            self._version += 1
            self._new.notify_all()

    def tell(self, status: str, ask: str, share: float, table: str) -> None:
        """What the panel says; share: 0 to 1, of what the recording should see."""
        for widget, value in ((self.status, status), (self.ask, ask), (self.table, table)):
            if widget.content != value:
                widget.content = value
        if self._share != round(share, 2):
            self._share = round(share, 2)
            assign(self.progress, 100 * self._share)

    def close(self) -> None:
        with self._new:
            self._closed = True
            self._new.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            with self._new:
                self._new.wait(INTERVAL)
                version, pictures = self._version, [self._camera, self._avatar]
            for client in self._server.get_clients().values():
                self._serve(client, version, [picture for picture in pictures if picture is not None])

    def _serve(self, client: viser.ClientHandle, version: int, pictures: list[ByteImage]) -> None:
        width, height = client.camera.image_width, client.camera.image_height
        wanted = version, width, height
        if not pictures or self._shown.get(client.client_id) == wanted or not (width > 0 and height > 0):
            return
        if not self._server.ready_for_picture(client.client_id):
            return
        self._shown[client.client_id] = wanted
        shrink = min(1.0, LONGEST / max(width, height))
        picture = side_by_side(pictures, max(2, round(shrink * width)), max(2, round(shrink * height)))
        client.scene.set_background_image(picture, format="jpeg", jpeg_quality=QUALITY)
        self._server.picture_sent(client.client_id)

    def _forget(self, client_id: int) -> None:
        self._shown.pop(client_id, None)
        self._server.forget(client_id)


def side_by_side(pictures: list[ByteImage], width: int, height: int) -> ByteImage:
    """Pictures beside each other in a window of width x height, or below each other in a high one; like in a mirror."""
    across = width >= height
    count = len(pictures)
    panel = (width // count, height) if across else (width, height // count)
    panels = [letterbox(np.ascontiguousarray(picture[:, ::-1]), panel) for picture in pictures]
    canvas = np.zeros((height, width, 3), np.uint8)
    joined = np.concatenate(panels, axis=1 if across else 0)
    canvas[:joined.shape[0], :joined.shape[1]] = joined
    return canvas
