"""A program that talks to the viewer's page as viser's own client in a browser does, for tests without one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import cv2
import msgspec
import numpy as np
import viser
import zstandard
from websockets.sync.client import connect

from viewer.camera import OrbitCamera


class PageClient:
    """Connects, sends its camera, and keeps what it is told: widgets and the last picture."""

    def __init__(self, port: int, **headers: str) -> None:
        self._socket = connect(f"ws://127.0.0.1:{port}", subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore
                               max_size=None, additional_headers=headers)
        self.widgets: dict[str, dict[str, Any]] = {}  # by label
        self.texts: dict[str, str] = {}  # of markdown, by uuid
        self.picture: np.ndarray | None = None
        self.pictures = 0
        self.downloads: dict[str, bytes] = {}
        self._transfers: dict[str, str] = {}

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def send_raw(self, data: bytes | str) -> None:
        self._socket.send(data)

    def look(self, width: int, height: int, view: OrbitCamera, wxyz: list[float]) -> None:
        """Send the camera of a window."""
        self.send("ViewerCameraMessage", wxyz=wxyz, position=view.position.tolist(), fov=view.fov, near=0.01, far=9.0,
                  image_height=height, image_width=width, look_at=view.look_at.tolist(), up_direction=view.up.tolist())

    def set(self, label: str, value: Any) -> None:
        """Move a widget, as a user would: the server does not repeat to us what we say."""
        self.widgets[label]["value"] = value
        self.send("GuiUpdateMessage", uuid=self.widgets[label]["uuid"], updates={"value": value})

    def click(self, label: str) -> None:
        """Press a button."""
        self.set(label, True)

    def listen(self, seconds: float) -> None:
        """Take in what comes for a while."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := end - time.monotonic()) > 0:
                self._take(self._socket.recv(timeout=left))

    def wait_for_picture(self, seconds: float = 15) -> np.ndarray:
        """The next picture that comes, uint8 RGB."""
        before, end = self.pictures, time.monotonic() + seconds
        while self.pictures == before:
            self._take(self._socket.recv(timeout=max(0.01, end - time.monotonic())))
        assert self.picture is not None
        return self.picture

    def wait_until(self, done: Callable[[], bool], seconds: float = 15) -> None:
        """Take in what comes until `done`; TimeoutError when that does not happen."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s")
            self.listen(0.05)

    def close(self) -> None:
        self._socket.close()

    def _take(self, data: Any) -> None:
        length = int.from_bytes(data[8:16], "little")
        window = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16:16 + length]))
        for message in window["messages"]:
            self._note(message, bytes(data[16 + length:]))

    def _note(self, message: dict[str, Any], binary: bytes) -> None:
        kind = message["type"]
        if kind == "BackgroundImageMessage" and message["rgb_data"] is not None:
            image = cv2.imdecode(np.frombuffer(message["rgb_data"], np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            self.picture, self.pictures = np.ascontiguousarray(image[..., ::-1]), self.pictures + 1
        elif kind == "GuiMarkdownMessage":
            self.texts[message["uuid"]] = message["props"]["_markdown"]
        elif kind == "GuiUpdateMessage" and message["uuid"] in self.texts:
            self.texts[message["uuid"]] = message["updates"].get("_markdown", self.texts[message["uuid"]])
        elif kind.startswith("Gui") and isinstance(message.get("props"), dict) and message["props"].get("label"):
            self.widgets[message["props"]["label"]] = message
        elif kind == "GuiUpdateMessage":
            for widget in self.widgets.values():
                if widget["uuid"] == message["uuid"]:
                    widget.update({k: v for k, v in message["updates"].items() if k == "value"})
                    widget["props"].update({k: v for k, v in message["updates"].items() if k != "value"})
        elif kind == "FileTransferStartDownload":
            self._transfers[message["transfer_uuid"]] = message["filename"]
            self.downloads[message["filename"]] = b""
        elif kind == "FileTransferPart":
            self.downloads[self._transfers[message["transfer_uuid"]]] += message["content"]
