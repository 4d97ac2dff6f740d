"""The viewer's page while an app on the network drives."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments.stream_settings import StreamSettings
from arguments.view_settings import ViewSettings
from flame.rotations import matrix_from_axis_angle, quat_from_matrix
from reenactment.livelink import Stamp, encode
from reenactment.samples import FaceSample
from tests.player_subject import lively_player, write_run
from tests.view_client import PageClient
from view import check, open_page
from viewer.camera import around, clip_camera, opening_view
from viewer.picture import Painter
from viewer.state import Driven, ViewState, codes_of, neutral_of

PLAYER = lively_player()


def test_codes_are_the_drivers_with_sliders_on_top() -> None:
    clip = PLAYER.clip.codes
    driven = Driven(clip.at(slice(2, 3)), torch.eye(3))
    state = ViewState("driver", driven=driven, overrides={"left eyelid": 0.5})
    codes = codes_of(state, PLAYER.head, clip)
    assert torch.equal(codes.expression, clip.expression[2:3]) and float(codes.eyelids[0, 0]) == 0.5
    assert torch.equal(codes_of(ViewState("driver"), PLAYER.head, clip).expression, neutral_of(clip).expression)


def test_a_turned_head_is_the_camera_that_goes_around_it() -> None:
    painter = Painter(PLAYER)
    camera = clip_camera(PLAYER.clip, 0, 64, 64)
    turn = matrix_from_axis_angle(torch.tensor([0.1, 0.4, -0.2]))
    points = torch.randn(20, 3)
    middle = torch.from_numpy(painter.middle)
    seen = around(camera, turn, painter.middle)
    wanted = ((points - middle) @ turn.T + middle) @ camera.R[0].T + camera.t[0]
    assert torch.allclose(points @ seen.R[0].T + seen.t[0], wanted, atol=1e-5)
    state = ViewState("driver", driven=Driven(PLAYER.clip.codes.at(slice(0, 1)), turn))
    assert torch.equal(painter.camera(state, camera).R, seen.R)
    assert painter.camera(ViewState("clip", driven=state.driven), camera) is camera


def test_a_stream_moves_the_avatar_on_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = write_run(tmp_path / "lively", PLAYER)
    page = open_page(ViewSettings(run, port=0, device="cpu", stream=StreamSettings("livelink:0", calibrate=0.0)))
    port = int(re.findall(r"UDP port (\d+)", caplog.text)[0])
    thread = threading.Thread(target=page.run, daemon=True)
    thread.start()
    client = PageClient(page.server.get_port())
    try:
        view = opening_view(PLAYER.clip, Painter(PLAYER).middle, page.first)
        client.look(96, 96, view, quat_from_matrix(PLAYER.clip.R[page.first].T).tolist())
        client.wait_until(lambda: client.picture is not None)
        assert client.widgets["Codes of"]["value"] == "the live driver"
        before = client.picture
        assert before is not None
        end = time.monotonic() + 20
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for turned in (0.0, 0.3):
                packet = encode(FaceSample({"jawOpen": 2 * turned}, (turned, 0.0, 0.0)), Stamp())
                while time.monotonic() < end:
                    out.sendto(packet, ("127.0.0.1", port))
                    client.listen(0.1)
                    driven = page.state.driven
                    if driven is not None and float(driven.turn[0, 2]) > 0.8 * turned:
                        break
        client.wait_until(lambda: client.picture is not None and client.picture.shape == before.shape
                          and float(np.abs(client.picture.astype(int) - before).mean()) > 2)
    finally:
        client.close()
        page.stop()
        thread.join(timeout=10)
        page.server.stop()


def test_settings_of_the_stream_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--udp: wanted livelink"):
        check(ViewSettings(tmp_path, stream=StreamSettings("unreal")))
