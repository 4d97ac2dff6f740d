"""Live driving: reading faces, the camera, the page, and their bad days."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flame.rotations import matrix_from_axis_angle
from reenactment.arkit import arkit_head
from reenactment.broadcast import MOST_BROWSERS, Broadcast
from reenactment.face import FaceReader
from reenactment.film import Painter
from reenactment.performance import Actor, Cures
from reenactment.video_driver import driver_of_video
from reenactment.webcam import Camera, CameraError, Delays, Follower, Mirror, faces_of, live
from tests.browser import find_chromium, open_tab
from tests.player_subject import lively_player
from tracking.detector import Face
from tracking.footage import Picture, Span, Wanted
from tracking.landmarks import NoFaceError
from tracking.records import BLENDSHAPE_NAMES
from utils.images import encode_image
from utils.video import write_video

WIDTH, HEIGHT = 80, 60


def face(open_mouth: float, yaw: float = 0.0, size: float = 30.0, x: float = 40.0) -> Face:
    """A face whose forehead and chin are `size` pixels apart around (x, 30)."""
    points = np.zeros((478, 3), np.float32)
    points[:, 0], points[:, 1] = x, 30.0
    points[10, 1], points[152, 1] = 30.0 - size / 2, 30.0 + size / 2
    scores = np.zeros(52, np.float32)
    scores[BLENDSHAPE_NAMES.index("jawOpen")] = open_mouth
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = matrix_from_axis_angle(torch.tensor([0.0, yaw, 0.0])).numpy()
    return Face(points, scores, pose)


class Script:
    """A detector that says what it was told, picture by picture."""

    def __init__(self, *faces: list[Face]) -> None:
        self.faces = iter(faces)

    def detect(self, rgb: np.ndarray, time: float) -> list[Face]:
        return next(self.faces, [])


PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
JAW = arkit_head().expression_names.index("jawOpen")


def test_reader_takes_the_largest_face_and_its_turn() -> None:
    reader = FaceReader(Script([face(0.1, size=10), face(0.7, yaw=0.3)]))
    seen = reader.read(PICTURE, 0.0)
    assert seen is not None and float(seen.codes.expression[0, JAW]) == pytest.approx(0.7)
    nose = seen.motion.R[0] @ torch.tensor([0.0, 0.0, 1.0])
    assert float(nose[0]) == pytest.approx(np.sin(0.3), abs=1e-5) and float(nose[2]) < 0
    assert float(seen.motion.middle[0, 2]) > 0 and abs(float(seen.motion.middle[0, 0])) < 1e-6


def test_reader_moves_with_the_face() -> None:
    reader = FaceReader(Script([face(0, x=40)], *[[face(0, x=56)]] * 60))
    seen = [reader.read(PICTURE, k / 30) for k in range(40)]
    first, last = seen[0], seen[-1]
    assert first is not None and last is not None
    where = [float(s.motion.focal * s.motion.middle[0, 0] / s.motion.middle[0, 2]) for s in (first, last)]
    assert where == pytest.approx([0.0, 16 / WIDTH], abs=5e-3)  # in picture widths


def test_reader_waits_while_no_face_is_seen() -> None:
    reader = FaceReader(Script([], [face(0.5)], [], []))
    assert reader.read(PICTURE, 0.0) is None
    first, second = reader.read(PICTURE, 0.1), reader.read(PICTURE, 0.2)
    assert first is not None and second is first and reader.lost == 2


class Clip:
    """Footage of plain pictures whose grey tells the number."""

    def __init__(self, count: int) -> None:
        self.path, self.notes, self.count = Path("clip.mp4"), ["it is dark"], count
        self.expected: int | None = count

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        for index in range(self.count):
            if wanted.accepts(index, index / 20):
                yield Picture(index, index / 20, np.full((HEIGHT, WIDTH, 3), index, np.uint8))


def test_film_begins_with_the_first_face() -> None:
    driver = driver_of_video(Clip(6), Script([], [], [face(0.5)], [], [face(0.5)], [face(0.5)]), Span())
    assert len(driver) == 4 and driver.fps == pytest.approx(20)
    assert driver.pictures is not None
    assert [int(picture[0, 0, 0]) for picture in driver.pictures()] == [2, 3, 4, 5]
    assert driver.notes == ("it is dark", "clip.mp4: no face in 3 of 6 pictures; there the avatar waits")
    assert torch.equal(driver.codes.expression[0], driver.codes.expression[1])


def test_film_without_a_face_is_refused() -> None:
    with pytest.raises(NoFaceError, match=r"clip.mp4: no face was found in any of 3 pictures"):
        driver_of_video(Clip(3), Script(), Span())


# The camera, with films in its place.


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with write_video(path, 50) as add:
        for level in range(0, 200, 10):
            add(np.full((HEIGHT, WIDTH, 3), level, np.uint8))
    return path


@pytest.mark.parametrize("source", ["97", "no_such_film.mp4"])
def test_a_camera_that_is_not_there(source: str) -> None:
    with pytest.raises(CameraError, match=rf"--webcam {source}: .*or another program holds it. Wanted the number"):
        Camera(source)


def test_camera_gives_the_newest_picture_only(film: Path) -> None:
    with Camera(str(film)) as camera:
        first = camera.newest(0)
        assert first is not None
        time.sleep(0.15)  # a slow machine
        second = camera.newest(first[0])
        assert second is not None and second[0] > first[0] + 2
        assert time.perf_counter() - second[1] < 0.1
        last = second
        while (newest := camera.newest(last[0])) is not None:
            last = newest
        assert last[0] == 20 and last[2].shape == (HEIGHT, WIDTH, 3)


def test_camera_that_stops_is_told(film: Path) -> None:
    with Camera(str(film)) as camera:
        camera._pause = 0.0  # as with a real camera, whose end is no end of a film
        number = 0
        with pytest.raises(CameraError, match="the camera sent no picture"):
            while (newest := camera.newest(number)) is not None:
                number = newest[0]


def test_mirror_does_what_the_face_does(film: Path) -> None:
    player = lively_player()
    actor = Actor(player, arkit_head(), Cures("none", "none"))
    mirror = Mirror(Follower(actor, calibrate=0.0, moves=True), Painter(player, 48, 48, (0, 0, 0), batch=1), (48, 48))
    reader, delays = FaceReader(Script([], *[[face(0.0)]] * 3, *[[face(1.0, yaw=0.2)]] * 20)), Delays()
    shown: list[np.ndarray] = []
    with Camera(str(film)) as camera:
        pictures = [picture for _, picture in live(faces_of(camera, reader), mirror, delays, shown.append)]
    assert len(pictures) == len(shown) == len(delays.total) >= 4
    assert pictures[0].shape == (48, 48, 3)
    assert np.abs(pictures[-1].astype(int) - pictures[0]).mean() > 1  # the mouth opened, the head turned
    assert f"{len(shown)} pictures" in delays.sentence() and "ms from arrival to picture" in delays.sentence()
    assert all(0 < read + act + draw <= total for read, act, draw, total in zip(
        delays.read, delays.act, delays.draw, delays.total, strict=True))


def test_mirror_learns_the_habit_while_it_calibrates() -> None:
    """A mouth that is always half open while calibrating counts as closed afterwards."""
    player = lively_player()
    actor = Actor(player, arkit_head(), Cures("rest", "none"))
    reader = FaceReader(Script(*[[face(0.5)]] * 2, [face(0.5)]))

    def after(calibrate: float) -> np.ndarray:
        mirror = Mirror(Follower(actor, calibrate, moves=False), Painter(player, 48, 48, (0, 0, 0), batch=1), (48, 48))
        seen = reader.read(PICTURE, 0.0)
        assert seen is not None
        first = mirror.picture(seen, 0.0)[0]
        rest = FaceReader(Script([face(0.0)])).read(PICTURE, 0.0)
        assert rest is not None
        mirror.picture(rest, 1.0)
        again = mirror.picture(seen, 2.0)[0]
        return np.abs(first.astype(int) - again).mean()

    assert after(0.5) == 0  # the second face came too late to count
    assert after(1.5) > 0


# The page.


@pytest.fixture
def page() -> Iterator[Broadcast]:
    broadcast = Broadcast("127.0.0.1", 0, "someone <b>")
    yield broadcast
    broadcast.close()


def get(page: Broadcast, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read() if path != "/stream" or answer.status != 200 else b""


def test_page_shows_the_stream_and_nothing_else(page: Broadcast) -> None:
    status, body = get(page, "/")
    assert status == 200 and b'src="/stream"' in body and b"someone &lt;b&gt;" in body
    for path in ("/etc/passwd", "/../reenact.py", "/stream/", "/favicon.ico", "/%2e%2e/x", "/?a=1"):
        assert get(page, path)[0] == 404, path


def parts(page: Broadcast, count: int) -> list[bytes]:
    """JPEGs of the stream, while new ones are published."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.headers.get_content_type() == "multipart/x-mixed-replace"
    found: list[bytes] = []
    while len(found) < count:
        assert answer.readline() == b"--picture\r\n"
        fields = dict(line.decode().strip().split(": ") for line in iter(answer.readline, b"\r\n"))
        found.append(answer.read(int(fields["Content-Length"])))
        assert answer.readline() == b"\r\n"
    connection.close()
    return found


def test_stream_brings_new_pictures(page: Broadcast) -> None:
    pictures = [encode_image(np.full((16, 16, 3), level, np.uint8), ".jpg") for level in (10, 200)]
    page.publish(pictures[0])
    later = threading.Timer(0.2, page.publish, pictures[1:])
    later.start()
    assert parts(page, 2) == pictures


def test_stream_starts_when_there_is_a_picture(page: Broadcast) -> None:
    threading.Timer(0.2, page.publish, [b"jpeg"]).start()
    assert parts(page, 1) == [b"jpeg"]


@pytest.mark.parametrize("nonsense", [
    b"\x00\xff\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", b"",
])
def test_page_survives_malformed_requests(page: Broadcast, nonsense: bytes) -> None:
    link = socket.create_connection(("127.0.0.1", page.port), timeout=5)
    with link, contextlib.suppress(OSError):  # it may hang up before it was all said
        link.sendall(nonsense)
        link.shutdown(socket.SHUT_WR)
        assert b" 200 " not in link.recv(4096)
    assert get(page, "/")[0] == 200


def test_browsers_that_leave_do_no_harm(page: Broadcast) -> None:
    page.publish(b"x" * 100_000)
    for _ in range(2 * MOST_BROWSERS):  # more than may look at once: each must give its place back
        parts(page, 1)
        page.publish(b"x" * 100_000)
        page.publish(b"x" * 100_000)
        time.sleep(0.02)
    assert get(page, "/")[0] == 200


def test_too_many_browsers_are_told(page: Broadcast) -> None:
    page.publish(b"x")
    links = []
    for _ in range(MOST_BROWSERS):
        link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
        link.request("GET", "/stream")
        assert link.getresponse().status == 200
        links.append(link)
    assert get(page, "/stream")[0] == 503
    assert get(page, "/")[0] == 200


def test_a_page_of_another_site_is_refused(page: Broadcast) -> None:
    """DNS rebinding: the browser thinks that this server is evil.example."""
    for host in ("evil.example", f"evil.example:{page.port}", "localhost.evil.example"):
        assert get(page, "/", Host=host)[0] == 403
        assert get(page, "/stream", Host=host)[0] == 403
    for host in ("localhost", f"127.0.0.1:{page.port}", f"[::1]:{page.port}"):
        assert get(page, "/", Host=host)[0] == 200


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome on PATH")
def test_a_browser_shows_what_is_published(page: Broadcast, tmp_path: Path) -> None:
    def shown() -> list[int]:
        picture = tab.screenshot()
        return [int(value) for value in picture[picture.shape[0] // 2 - 20, picture.shape[1] // 2]]

    def publish(*colour: int) -> None:
        page.publish(encode_image(np.full((200, 200, 3), colour, np.uint8), ".jpg"))

    publish(255, 0, 0)
    with open_tab(f"http://127.0.0.1:{page.port}/", tmp_path, 400, 300) as tab:
        tab.wait_for("document.images[0]?.naturalWidth === 200")
        for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0)):
            end = time.monotonic() + 20
            while shown() != pytest.approx(colour, abs=4) and time.monotonic() < end:  # 4 levels: JPEG
                publish(*colour)
                time.sleep(0.05)
            assert shown() == pytest.approx(colour, abs=4)
