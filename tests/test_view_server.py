"""The viewer's server and page without a browser: ports, strangers, garbage, and the page as viser's client sees it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import viewer.page
from arguments.view_settings import ViewSettings
from flame.rotations import quat_from_matrix
from player.views import front_frame
from scene.checkpoint import Checkpoint, save_checkpoint
from tests.player_subject import lively_player, write_run
from tests.reference_folder import write_data_set, write_reference_folder
from tests.view_client import PageClient
from view import check, find_truth, follow, open_newest, subtitle
from viewer.camera import OrbitCamera, clip_camera, opening_view
from viewer.pace import Pace
from viewer.page import Page
from viewer.picture import Painter
from viewer.server import PageServer, check_port
from viewer.state import ViewState

ROOT = Path(__file__).resolve().parents[1]
PLAYER = lively_player()
SETTLED = 0.1  # seconds; shorter than for people
WINDOW = 96  # pixels; the size of the clip, so that the page draws what the clip's camera sees
WXYZ = quat_from_matrix(PLAYER.clip.R[0].T).tolist()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A running page on a free port."""
    viewer.page.SETTLED = SETTLED  # the rest of the process is this file's too
    server = PageServer("127.0.0.1", 0, "lively")
    page = Page(Painter(PLAYER), server, Pace(10.0, 512), 25.0, "iteration 1")
    page.offer_truth(None, "no data")
    thread = threading.Thread(target=page.run, daemon=True)
    thread.start()
    yield page
    page.stop()
    thread.join(timeout=10)
    assert not thread.is_alive()
    server.stop()


@pytest.fixture
def client(page: Page) -> Iterator[PageClient]:
    """A window of WINDOW pixels at the first view, with a picture, the page's state as at the start."""
    page.play(False)
    page.change(lambda _: ViewState())
    client = PageClient(page.server.get_port())
    client.look(WINDOW, WINDOW, first_view(page), WXYZ)
    client.wait_until(lambda: client.picture is not None and client.picture.shape[:2] == (WINDOW, WINDOW))
    client.wait_until(lambda: page.panel.frame.value == 0)  # else setting it to what it is would say nothing
    yield client
    client.close()


def first_view(page: Page) -> OrbitCamera:
    return opening_view(PLAYER.clip, page._painter.middle)


def psnr(one: np.ndarray | None, other: np.ndarray | None) -> float:
    assert one is not None and other is not None
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


def test_the_first_picture_is_the_first_frames_from_its_camera(page: Page, client: PageClient) -> None:
    wanted = page._painter.paint(page.state, clip_camera(PLAYER.clip, 0, WINDOW, WINDOW))
    # JPEG on coloured noise; another frame or camera gives below 20.
    client.wait_until(lambda: psnr(client.picture, wanted) > 30)


def test_a_fresh_page_opens_with_the_frame_that_shows_the_face_best() -> None:
    server = PageServer("127.0.0.1", 0, "first")
    try:
        page = Page(Painter(PLAYER), server, Pace(10.0, 512), 25.0)
        assert page.state.frame == page.first == front_frame(PLAYER.clip)
        view = opening_view(PLAYER.clip, page._painter.middle, page.first)
        np.testing.assert_allclose(server.initial_camera.position, view.position)
    finally:
        server.stop()


def test_a_view_that_training_never_saw_is_told_to_its_browser(page: Page, client: PageClient) -> None:
    def told() -> bool:
        return any("nearest view of training" in text for text in client.texts.values())

    client.listen(1)
    assert not told()
    view, middle = first_view(page), np.asarray(page._painter.middle)
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # a quarter turn around the head: its profile
    profile = OrbitCamera(middle + turn @ (view.position - middle), middle, view.up, view.fov)
    wxyz = quat_from_matrix(torch.from_numpy(turn) @ PLAYER.clip.R[0].T.double()).tolist()
    client.look(WINDOW, WINDOW, profile, wxyz)
    client.wait_until(told)
    client.look(WINDOW, WINDOW, view, WXYZ)
    client.wait_until(lambda: not told())


def test_moving_a_slider_changes_the_picture_and_undo_brings_it_back(page: Page, client: PageClient) -> None:
    before = client.picture
    client.set("left (°)", 30.0)  # the last of that name: the neck
    client.wait_until(lambda: psnr(before, client.picture) < 25)
    assert page.state.overrides == {"neck left": 30.0}
    client.click("Undo all sliders")
    client.wait_until(lambda: psnr(before, client.picture) > 30)
    client.wait_until(lambda: abs(client.widgets["left (°)"]["value"] - 30.0) > 1)  # the slider follows


def test_the_timeline_plays_stops_and_seeks(page: Page, client: PageClient) -> None:
    client.set("Frame", 3)
    client.wait_until(lambda: page.state.frame == 3)
    client.set("Frame", 10**9)  # frames that there are not become the nearest one
    client.wait_until(lambda: page.state.frame == page.frames - 1)
    client.set("Loop", False)
    client.wait_until(lambda: not page._playback.loop)
    pictures = client.pictures
    client.click("Play")
    client.wait_until(lambda: page._playback.playing)
    client.wait_until(lambda: not page._playback.playing)
    client.wait_until(lambda: client.pictures > pictures)
    assert page.state.frame == page.frames - 1
    client.set("Loop", True)
    client.wait_until(lambda: page._playback.loop)
    client.click("Play")
    client.listen(0.5)
    assert page._playback.playing, "5 frames at 25 a second would have ended"


def test_one_blendshape_alone(page: Page, client: PageClient) -> None:
    client.set("Name", "cheekPuff")
    client.wait_until(lambda: page.state.base == "neutral")
    assert dict(page.state.overrides) == {"expression:cheekPuff": 1.0}


def test_a_window_gets_a_small_picture_while_moving_and_a_sharp_one_at_rest(page: Page, client: PageClient) -> None:
    client.listen(3 * SETTLED)
    page.pace._moving = 64 * 64
    client.look(256, 256, first_view(page), WXYZ)
    assert client.wait_for_picture().shape == (64, 64, 3)
    client.wait_until(lambda: client.picture is not None and client.picture.shape == (256, 256, 3))


def test_screenshot_and_film_arrive(page: Page, client: PageClient) -> None:
    client.click("Screenshot (PNG)")
    client.wait_until(lambda: client.downloads.get("lively_00000.png", b"").endswith(b"IEND\xaeB`\x82"))
    client.click("Film of the timeline (MP4)")
    client.wait_until(lambda: b"ftyp" in client.downloads.get("lively.mp4", b"")[:12])


def test_the_comparison_is_refused_without_the_data_set(page: Page, client: PageClient) -> None:
    assert client.widgets["Ground truth"]["props"]["disabled"]
    client.set("Ground truth", True)
    client.set("Frame", 1)  # handled after it
    client.wait_until(lambda: page.state.frame == 1)
    assert not page.state.compare


CAMERA = {"wxyz": WXYZ, "position": [0, 0, 1], "near": 0, "far": 0, "image_height": 9, "image_width": 9,
          "look_at": [0, 0, 0], "up_direction": [0, 1, 0]}
GARBAGE = [b"", b"\xff" * 100, b"\x80", "text", b"\x81\xa4type\xa3Foo", b"\x81\xa4type\xb3ViewerCameraMessage",
           msgspec.msgpack.encode({"type": "ViewerCameraMessage", "fov": "wide", **CAMERA})]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_on_the_websocket_ends_only_its_sender(page: Page, client: PageClient, data: bytes | str) -> None:
    bad = PageClient(page.server.get_port())
    bad.send_raw(data)
    with pytest.raises(ConnectionClosed):
        bad.listen(10)
    pictures = client.pictures
    client.set("Frame", 2)
    client.wait_until(lambda: page.state.frame == 2 and client.pictures > pictures)


def test_malformed_values_leave_the_page_alive(page: Page, client: PageClient) -> None:
    view = first_view(page)
    for width, height, wxyz, position in ((0, 0, WXYZ, view.position), (10**12, 1, WXYZ, view.position),
                                          (64, 64, [0.0] * 4, view.position), (64, 64, WXYZ, view.position * np.nan)):
        client.look(width, height, replace(view, position=position), wxyz)
    before = page.state
    for label, value in (("Frame", "many"), ("open (°)", float("nan")), ("Picture", "x-ray"), ("Parts", "tail"),
                         ("Background", [1, "red"]), ("Name", "tailWag"), ("Frames/s", -5), ("Camera", 7)):
        client.set(label, value)
    client.send("GuiUpdateMessage", uuid=client.widgets["Frame"]["uuid"], updates={"nonsense": 1})
    client.send("GuiUpdateMessage", uuid="nobody", updates={"value": 1})
    good = {"Picture": "colour", "Parts": "everything", "Camera": "orbit (drag, scroll)", "Frames/s": 25}
    client.wait_until(lambda: {label: client.widgets[label]["value"] for label in good} == good)  # taken back
    assert page.state == before
    pictures = client.pictures
    client.look(WINDOW, WINDOW, view, WXYZ)
    client.set("Camera", "the clip's camera")
    client.wait_until(lambda: page.state.view == "clip")
    client.wait_until(lambda: client.pictures > pictures)


def answer(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=False)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("path", ["/../_viser.py", "/%2e%2e/_viser.py", "/..%2f..%2f__init__.py", "//etc/passwd",
                                  "/..\\..\\__init__.py", "/config.json"])
def test_nothing_outside_the_page_is_served(page: Page, path: str) -> None:
    assert answer(page.server.get_port(), path)[0] == 404


def test_the_page_itself_is_served_and_malformed_http_survived(page: Page) -> None:
    port = page.server.get_port()
    for data in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(data)
            raw.settimeout(0.3)
            with contextlib.suppress(OSError):
                raw.recv(1000)
    status, body = answer(port, "/")
    assert status == 200 and b"<html" in body.lower()


def test_pages_of_other_sites_are_refused(page: Page) -> None:
    port = page.server.get_port()
    for headers in ({"Origin": "http://evil.example"}, {"Origin": f"http://evil.example:{port}"}):
        stranger = PageClient(port, **headers)
        with pytest.raises(ConnectionClosed) as closed:
            stranger.listen(5)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
        assert stranger.widgets == {} and stranger.picture is None
    own = PageClient(port, Origin=f"http://127.0.0.1:{port}")
    own.listen(1)
    assert own.widgets
    own.close()


def test_nobody_can_have_the_page_shared(page: Page, client: PageClient) -> None:
    client.send("ShareUrlRequest")
    client.listen(0.5)
    assert page.server._share_tunnel is None
    assert page.server.request_share_url() is None


def test_port_in_use_is_said_with_a_free_one(page: Page) -> None:
    port = page.server.get_port()
    with pytest.raises(ValueError, match=rf"--port {port} on 127\.0\.0\.1 cannot be used .*try --port \d+") as error:
        PageServer("127.0.0.1", port, "second")
    check_port("127.0.0.1", int(re.findall(r"try --port (\d+)", str(error.value))[0]))


@pytest.mark.parametrize(("host", "port", "message"), [
    ("127.0.0.1", 70_000, "--port: wanted 0 to 65535"),
    ("no such host", 8080, "--host: no such host is no address"),
    ("203.0.113.7", 8080, "--host: 203.0.113.7 is no address of this machine"),
])
def test_impossible_addresses(host: str, port: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_port(host, port)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_path": Path("gone")}, "gone: no such folder; wanted the output folder"),
    ({"fps": 0.0}, "--fps: wanted more than 0"),
    ({"size": 5}, "--size: wanted 0 or 128"),
    ({"watch": True, "iteration": 5}, "--watch and --iteration"),
])
def test_impossible_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(replace(ViewSettings(ROOT), **change))


def test_watch_shows_the_next_checkpoint(tmp_path: Path, page: Page, client: PageClient,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", PLAYER)
    monkeypatch.setattr("view.WATCH_INTERVAL", 0.05)
    settings = ViewSettings(folder, watch=True)
    device = torch.device("cpu")
    painter, iteration = open_newest(settings, device)
    assert iteration == 1 and subtitle(iteration, True) == "iteration 1 (following the run)"
    old = page._painter
    threading.Thread(target=follow, args=(page, settings, device, iteration), daemon=True).start()
    # A folder that is still being written is passed over, a complete one is shown.
    (folder / "checkpoints" / "iteration_00000002").mkdir()
    state = {"sh_degree": 3, "expressions": PLAYER.num_expressions, "head": PLAYER.head.name}
    brighter = painter.player.avatar
    with torch.no_grad():
        brighter.neutral[:, 11:14] += 1.0
    assert client.picture is not None
    before = client.picture.mean()
    save_checkpoint(folder / "checkpoints", Checkpoint(3, brighter, {}, state))
    client.wait_until(lambda: np.mean(client.picture) > before + 10)  # type: ignore[arg-type]
    assert "iteration 3 (following the run)" in page._subtitle
    page.replace_avatar(old, "iteration 1")


def test_models_of_the_reference_open_with_their_ground_truth(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", PLAYER)
    folder = write_reference_folder(tmp_path / "model", PLAYER, data)
    settings = ViewSettings(folder)
    painter, iteration = open_newest(settings, torch.device("cpu"))
    assert iteration is None and subtitle(iteration, False) == ""
    painter.truth, note = find_truth(settings, painter.player.clip)
    assert painter.truth is not None, note
    camera = clip_camera(painter.player.clip, 0, 3 * WINDOW, WINDOW)
    assert painter.paint(ViewState(compare=True), camera).shape == (WINDOW, 3 * WINDOW, 3)


def test_ground_truth_that_is_gone_is_explained(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", PLAYER)
    truth, note = find_truth(ViewSettings(folder), PLAYER.clip)
    assert truth is None and "No ground truth" in note and "gone" in note and "--source_path" in note
    data = write_data_set(tmp_path / "data", PLAYER)
    assert find_truth(ViewSettings(folder, source_path=data), PLAYER.clip)[0] is not None
    (folder / "config.json").write_text("{}")  # as another version may have written it
    assert find_truth(ViewSettings(folder, source_path=data), PLAYER.clip)[0] is not None


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "view.py", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)


def test_command_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    result = command(str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("view.py: ") and result.stderr.count("\n") == 1
    assert "config.json" in result.stderr


def heed_ctrl_c() -> None:
    """What runs behind a script's `&` inherits a Ctrl-C that is ignored, and the test may run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_command_serves_the_page_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", PLAYER)
    process = subprocess.Popen([sys.executable, "view.py", str(folder), "--port", "0", "--device", "cpu"], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               preexec_fn=heed_ctrl_c)
    assert process.stdout is not None
    try:
        said = ""
        while "Open http" not in said:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        port = int(re.findall(r"Open http://localhost:(\d+)", said)[0])
        assert answer(port, "/")[0] == 200
        with connect(f"ws://127.0.0.1:{port}") as raw, pytest.raises(ConnectionClosed):
            raw.recv(timeout=5)  # no viser client: refused
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
