"""The page: the state that its widgets change, and the loop that draws it for every browser that looks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import viser

from gaussian_renderer import Cameras
from player.views import front_frame
from utils.video import VideoUnavailable
from viewer.camera import browser_camera, opening_view
from viewer.pace import Pace
from viewer.panel import Change, Panel, assign
from viewer.picture import Painter
from viewer.playback import Timeline
from viewer.recording import film, screenshot, timeline
from viewer.server import PageServer
from viewer.state import ViewState, slider_values, sliders_of
from viewer.truth import GroundTruth
from viewer.unseen import UnseenNotes

log = logging.getLogger("view")

SETTLED = 0.3  # seconds after the last change until a sharp picture is drawn and the sliders follow
IDLE_WAIT = 0.2  # seconds between looks at new browsers when nothing happens
MOVING_QUALITY, RESTING_QUALITY = 75, 92  # JPEG
STATUS_INTERVAL = 0.5  # seconds


_Drawn = tuple[float, float, tuple[int, int]]  # of a picture: when it was done, seconds that it took, size


@dataclass
class _Window:
    """What a browser has been shown: the state's version, its camera's time, and whether at full size."""

    version: int = -1
    camera_time: float = -1.0
    sharp: bool = False
    warned: bool = False


class Page:
    """Draws the avatar for all browsers; one state for all, a camera for each. `run` until `stop`."""

    def __init__(self, painter: Painter, server: PageServer, pace: Pace, fps: float, subtitle: str = "",
                 driven: bool = False) -> None:
        """driven: whether somebody drives live, who changes the state's `driven`."""
        self.server, self.pace = server, pace
        self._painter, self._subtitle = painter, subtitle
        self.first = front_frame(painter.player.clip)
        self._state, self._version, self._changed_at = ViewState("driver" if driven else "clip", self.first), 0, 0.0
        self._wake = threading.Condition()
        self._stopped = False
        self._windows: dict[int, _Window] = {}
        self._sliders_follow = True
        self._recent: deque[_Drawn] = deque(maxlen=60)
        self._status_at = 0.0
        self._filming = threading.Lock()
        self._unseen = UnseenNotes(painter)
        player = painter.player
        self._playback = Timeline(player.clip.recording, self.first, fps)
        self._sliders = sliders_of(player.head, player.num_expressions, player.clip.codes)
        self._set_the_stage()
        self.panel = Panel(server.gui, self, self._sliders, self._playback, driven)
        server.on_client_connect(self._welcome)
        server.on_client_disconnect(self._farewell)

    # What the panel and the outside may do; any thread.

    @property
    def state(self) -> ViewState:
        return self._state

    def change(self, change: Change) -> None:
        """Replace the state by `change(state)`. Errors of `change` leave it as it was."""
        with self._wake:
            self._state = change(self._state)
            self._touched()

    @property
    def frames(self) -> int:
        """Length of the timeline."""
        return self._playback.frames

    def seek(self, place: int) -> None:
        """Show a frame of the timeline (the nearest there is); stops playing."""
        self.play(False)
        self.change(lambda state: replace(state, base="clip", frame=self._playback.at(place)))

    def choose_camera(self, name: str) -> None:
        """Make the frames of one of several cameras the timeline, at the same moment. ValueError for another name."""
        self.play(False)
        self.change(lambda state: replace(state, frame=self._playback.choose(name, state.frame)))

    def play(self, playing: bool) -> None:
        """Start or stop the timeline at the frame it stands at."""
        with self._wake:
            if playing:
                self._playback.start(self._state.frame)
                self._state = replace(self._state, base="clip")
            else:
                self._playback.stop()
            self._touched()
        self.panel.show_playing(playing)

    def set_loop(self, loop: bool) -> None:
        self._playback.loop = loop

    def set_speed(self, fps: float) -> None:
        with self._wake:
            self._playback.set_fps(fps)

    def home(self, client: viser.ClientHandle) -> None:
        """Bring a browser's camera back to the first view."""
        view = opening_view(self._painter.player.clip, self._painter.middle, self.first)
        with client.atomic():
            client.camera.fov = view.fov
            client.camera.up_direction = view.up
            client.camera.position = view.position
            client.camera.look_at = view.look_at

    def replace_avatar(self, painter: Painter, subtitle: str) -> None:
        """Show another checkpoint of the same run."""
        with self._wake:
            painter.truth = self._painter.truth
            self._painter, self._subtitle = painter, subtitle
            self._touched()

    def offer_truth(self, truth: GroundTruth | None, note: str) -> None:
        """The data set's pictures, or why there are none."""
        self._painter.truth = truth
        self.panel.allow_comparison(truth is not None, note)

    def screenshot(self, client: viser.ClientHandle) -> None:
        """Send a browser what it sees, as PNG at its window's size."""
        try:
            data = screenshot(self._painter, self._state, self._camera_of(client))
        except (ValueError, RuntimeError) as error:
            self._complain(client, error)
            return
        client.send_file_download(f"{self._name}_{self._state.frame:05d}.png", data, save_immediately=True)

    def film(self, client: viser.ClientHandle) -> None:
        """Send a browser the whole timeline as it looks now, as MP4. One film at a time."""
        if not self._filming.acquire(blocking=False):
            client.add_notification("A film is being made", "Wait until it is done.", auto_close_seconds=4)
            return
        bar = self.panel.progress
        try:
            bar.visible = True

            def shown(done: int) -> bool:
                assign(bar, 100 * done / self.frames)
                return not self._stopped and client.client_id in self.server.get_clients()

            states: Iterator[ViewState] = timeline(self._state, self._playback.numbers.tolist())
            data = film(self._painter, states, self._camera_of(client), self._playback.fps, shown)
            if data is not None:
                client.send_file_download(f"{self._name}.mp4", data, save_immediately=True)
        except (ValueError, OSError, RuntimeError, VideoUnavailable) as error:
            self._complain(client, error)
        finally:
            bar.visible = False
            self._filming.release()

    def stop(self) -> None:
        """End `run`."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    # The loop; one thread.

    def run(self) -> None:
        """Draw until `stop`."""
        while not self._stopped:
            self._advance()
            drew = [self._serve(client) for client in self.server.get_clients().values()]
            self._follow_up()
            with self._wake:
                if not any(drew) and not self._stopped:
                    self._wake.wait(0.2 / self._playback.fps if self._playback.playing else IDLE_WAIT)

    def _advance(self) -> None:
        """Move the timeline to the frame that is due."""
        with self._wake:
            if not self._playback.playing:
                return
            frame, ended = self._playback.frame()
            if frame != self._state.frame:
                self._state = replace(self._state, frame=frame)
                self._touched(quiet=True)
        if ended:
            self.play(False)

    def _serve(self, client: viser.ClientHandle) -> bool:
        """Draw for one browser if it needs a picture and can take one. Returns whether it did."""
        window = self._windows.setdefault(client.client_id, _Window())
        camera_time, version, state = client.camera.update_timestamp, self._version, self._state
        moved = (window.version, window.camera_time) != (version, camera_time)
        settled = time.time() - max(self._changed_at, camera_time) > SETTLED and not self._playback.playing
        if (not moved and (window.sharp or not settled)) or not self.server.ready_for_picture(client.client_id):
            return False
        window.version, window.camera_time, window.sharp = version, camera_time, settled
        try:
            size = self.pace.size(client.camera.image_width, client.camera.image_height, moving=not settled)
            window.sharp |= size == self.pace.size(client.camera.image_width, client.camera.image_height, False)
            camera = self._camera_of(client, size)
            started = time.perf_counter()
            picture = self._painter.paint(state, camera)
        except (ValueError, OSError, RuntimeError) as error:
            window.sharp = True
            if not window.warned:
                window.warned = True
                log.warning("no picture for browser %d: %s", client.client_id, error)
            return False
        if client.client_id not in self.server.get_clients():  # it left meanwhile
            return True
        client.scene.set_background_image(picture, format="jpeg",
                                          jpeg_quality=RESTING_QUALITY if settled else MOVING_QUALITY)
        self.server.picture_sent(client.client_id)
        seconds = time.perf_counter() - started
        self._recent.append((time.perf_counter(), seconds, size))
        if not settled:
            self.pace.record(max(seconds, self.server.seconds_of_pictures.get(client.client_id, 0)), size[0] * size[1])
        return True

    def _follow_up(self) -> None:
        """Widgets and status line, when nothing moves or from time to time."""
        now = time.time()
        if self._sliders_follow and now - self._changed_at > SETTLED and not self._playback.playing:
            self._sliders_follow = False
            state = self._state
            self.panel.show(state, slider_values(self._painter.codes(state), self._sliders, self._painter.player.head))
        if now - self._status_at > STATUS_INTERVAL:
            self._status_at = now
            status = _status(self._painter, self._subtitle, self._recent)
            if status != self.panel.status.content:
                self.panel.status.content = status
            if self._playback.playing:
                self.panel.show_frame(self._state.frame)
            for client in self.server.get_clients().values():
                self._unseen.tell(client, self._painter, self._state, self._version, self.panel.status.order + 0.5)

    # Small things.

    @property
    def _name(self) -> str:
        return self._painter.player.name

    def _touched(self, quiet: bool = False) -> None:
        """Note a change (under the lock). Quiet ones do not move the sliders."""
        self._version += 1
        self._changed_at = time.time()
        self._sliders_follow |= not quiet
        self._wake.notify_all()

    def _camera_of(self, client: viser.ClientHandle, size: tuple[int, int] | None = None) -> Cameras:
        camera = client.camera
        width, height = size or (camera.image_width, camera.image_height)
        return browser_camera(camera.wxyz, camera.position, camera.fov, width, height)

    def _complain(self, client: viser.ClientHandle, error: Exception) -> None:
        log.warning("%s", error)
        client.add_notification("That did not work", str(error), color="red", auto_close_seconds=8)

    def _set_the_stage(self) -> None:
        view = opening_view(self._painter.player.clip, self._painter.middle, self.first)
        server = self.server
        server.scene.set_up_direction("+y")
        server.scene.world_axes.visible = False
        first = server.initial_camera
        first.position, first.look_at, first.up, first.fov = view.position, view.look_at, view.up, view.fov
        first.near = 0.01
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="medium")
        server.gui.main_panel.dock_right()

    def _welcome(self, client: viser.ClientHandle) -> None:
        @client.camera.on_update
        def _(_: viser.CameraHandle) -> None:
            with self._wake:
                self._wake.notify_all()

    def _farewell(self, client: viser.ClientHandle) -> None:
        self._windows.pop(client.client_id, None)
        self.server.forget(client.client_id)
        self._unseen.forget(client.client_id)


def _status(painter: Painter, subtitle: str, recent: deque[_Drawn]) -> str:
    """What the page says of the avatar and of the pictures lately drawn."""
    counts = painter.player.avatar.part_counts()
    lines = [f"**{painter.player.name}** {subtitle}".rstrip(),
             f"{sum(counts.values()):,} Gaussians ({', '.join(f'{n:,} {name}' for name, n in counts.items())})"]
    last = [entry for entry in recent if time.perf_counter() - entry[0] < 2]
    if last:
        width, height = last[-1][2]
        milliseconds = 1000 * float(np.median([entry[1] for entry in last]))
        rate = f"{(len(last) - 1) / (last[-1][0] - last[0][0]):.0f} frames/s, " if len(last) > 3 else ""
        lines.append(f"{rate}{milliseconds:.0f} ms a picture, {width} x {height}")
    elif recent:
        lines.append("at rest, {} x {}".format(*recent[-1][2]))
    return "  \n".join(lines)
