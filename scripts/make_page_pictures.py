"""The pictures of docs/viewer.md, docs/web.md and docs/reenact.md, from what `make demo` leaves:

    python -m scripts.make_page_pictures output/demo

Needs Chromium or Chrome for the pages, npm for web_three and web_camera. Prints how far the web page is from our
renderer. The driver of reenact.webp is another demo subject (--seed 3), drawn into a temporary folder.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from arguments.export_settings import ExportSettings
from exporting.web import export_file, export_web
from player import Player, open_player
from tests.browser import Tab, open_tab, served
from tracking.footage import Span
from tracking.video import open_footage
from utils.atomic import write_bytes
from viewer.camera import clip_camera
from viewer.overlay import label
from viewer.picture import Painter
from viewer.state import ViewState

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "images"
PACKAGE = ROOT / "web"
CUBE_SECONDS = (0.62, 2.5)  # of the example in web/: before the avatar on the right, behind it
QUALITY = 88  # WebP: letters of the pages stay clean
WINDOW, PHONE = (1200, 720), (390, 780)
TURNS = {"open (°)": 15, "tilt (°)": -12}  # of jaw and neck, on the viewer's Face tab
SMILE = {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "mouthUpperUpLeft": 0.4, "mouthUpperUpRight": 0.4}
COMPARED, COMPARED_SIDE = (12, 150, 290), 320
SWEPT = ("jawOpen", "mouthPucker", "mouthSmileLeft", "browDownLeft", "eyeBlinkRight", "noseSneerLeft")

Image = NDArray[np.uint8]


def row(pictures: Sequence[Image]) -> Image:
    """Pictures of one height side by side."""
    return np.concatenate(list(pictures), axis=1)


def layers(player: Player, side: int = 300) -> Image:
    """Two rows of what the viewer can draw, of a frame with an open mouth and open eyes."""
    codes, names = player.clip.codes, player.expression_names
    jaw, blink = (codes.expression[:, names.index(name)] for name in ("jawOpen", "eyeBlinkLeft"))
    frame = int((jaw - blink - codes.eyelids.mean(1)).argmax())
    state = ViewState(frame=frame)
    wanted: dict[str, dict[str, Any]] = {
        "colour": {}, "opacity": {"layer": "opacity"}, "depth": {"layer": "depth"},
        "mask of jawOpen": {"layer": "mask", "mask_expression": names.index("jawOpen")},
        "head mesh": {"mesh": True}, "splat centres": {"centres": True}, "teeth only": {"parts": "teeth only"},
        "without teeth": {"parts": "without teeth"}}
    painter, drawn = Painter(player), []
    for name, change in wanted.items():
        picture = painter.paint(replace(state, **change), clip_camera(player.clip, frame, side, side)).copy()
        label(picture, name, 4, 4)
        drawn.append(picture)
    return np.concatenate([row(drawn[:4]), row(drawn[4:])])


def still(tab: Tab, seconds: float = 120) -> Image:
    """The page, once it has looked the same for three seconds: a sharp picture follows a moving one."""
    before, alike = tab.screenshot(), 0
    for _ in range(int(seconds)):
        tab.evaluate("new Promise(done => setTimeout(() => done(true), 1000))")
        after = tab.screenshot()
        alike = alike + 1 if np.array_equal(before, after) else 0
        if alike == 3:
            return after
        before = after
    raise TimeoutError(f"the page did not come to rest within {seconds} s")


@contextmanager
def viewer(run: Path, folder: Path) -> Iterator[Tab]:
    """A browser on a fresh view.py of the run."""
    process = subprocess.Popen([sys.executable, "view.py", str(run.resolve()), "--port", "0"], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        address = next((found[0] for line in process.stdout if (found := re.findall(r"Open (http://\S+)", line))), None)
        if address is None:
            raise ValueError(f"view.py {run} ended before it served a page")
        with open_tab(address, folder, *WINDOW) as tab:
            tab.wait_for("document.body && document.body.innerText.includes('Face') && "
                         "!!document.querySelector('canvas')", 60)
            tab.evaluate("for (const b of document.querySelectorAll('.mantine-Notification-closeButton')) b.click()")
            yield tab
    finally:
        process.kill()
        process.wait()


def beside(tab: Tab, name: str, selector: str, then: str) -> None:
    """Run JavaScript on the first `box` of a CSS selector in the row of the panel that is called `name`."""
    tab.wait_for(f"""(() => {{
        let row = [...document.querySelectorAll('label')].find(e => e.innerText.trim() == {name!r});
        while (row && !row.querySelector({selector!r})) row = row.parentElement;
        if (!row) return false;
        const box = row.querySelector({selector!r});
        {then}
        return true}})()""")


def viewer_pictures(run: Path, folder: Path) -> dict[str, Image]:
    """The Face tab with a changed face, and the comparison with the ground truth.

    A browser for each: where it draws slowly, viser's page lowers its resolution for good.
    """
    with viewer(run, folder / "face") as tab:
        still(tab)
        tab.click(*tab.middle_of("[role=tab]", "Face"))
        for name, value in TURNS.items():
            beside(tab, name, "input[type=text]", "box.focus(); box.select()")
            tab.call("Input.insertText", text=str(value))
        tab.evaluate("document.activeElement.blur()")
        face = still(tab)
    with viewer(run, folder / "look") as tab:
        still(tab)
        tab.click(*tab.middle_of("[role=tab]", "Look"))
        beside(tab, "Ground truth", "input[type=checkbox]", "box.click()")
        return {"viewer_face": face, "viewer_compare": still(tab)}


def web_pictures(player: Player, folder: Path) -> dict[str, Image]:
    """The exported page on a desk and on a phone, and beside our renderer."""
    page = export_web(player, ExportSettings(folder / "run", "web", folder / "page")) / "index.html"
    smile = f"{page.as_uri()}#set=" + ",".join(f"{name}:{value}" for name, value in SMILE.items())
    pictures = {}
    for name, (width, height) in (("web_page", (1280, 800)), ("web_phone", PHONE)):
        with open_tab(smile, folder / name, width, height) as tab:
            tab.wait_for("document.body && document.body.dataset.report", 120)
            tab.evaluate("[...document.querySelectorAll('summary')].find(e => e.innerText.startsWith('Mouth'))"
                         ".scrollIntoView()")
            pictures[name] = still(tab)
    pictures["web_compare"] = web_beside_ours(player, page, folder / "compare")
    return pictures


def web_beside_ours(player: Player, page: Path, folder: Path) -> Image:
    """Page, our renderer and ten times their difference, of the middle frame of `COMPARED`; prints PSNR of all."""
    side, background = COMPARED_SIDE, torch.tensor([0x20, 0x24, 0x28]) / 255
    shown = {}
    with open_tab("about:blank", folder, 900, 480) as tab:
        for frame in COMPARED:
            tab.call("Page.navigate", url="about:blank")
            tab.call("Page.navigate", url=f"{page.as_uri()}#frame={frame}&size={side}")
            tab.wait_for("document.body && document.body.dataset.report", 120)
            theirs = tab.screenshot()[:side, :side]
            image = player.render(player.codes_of(frame), player.cameras_of(frame, side, side), background).image[0]
            ours = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            difference = np.abs(theirs.astype(int) - ours)
            exact = (theirs / 255 - image.clamp(0, 1).permute(1, 2, 0).double().numpy()) ** 2
            print(f"web page, frame {frame}: {-10 * np.log10(exact.mean()):.1f} dB, largest difference "
                  f"{difference.max()} of 255")
            shown[frame] = row([theirs, ours, (10 * difference).clip(0, 255).astype(np.uint8)])
    return shown[COMPARED[1]]


def three_picture(player: Player, folder: Path) -> Image:
    """The example of web/: the cube before one of the two avatars, and behind it."""
    package = shutil.copytree(PACKAGE, folder / "web", ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    subprocess.run(install, cwd=package, check=True, stdout=subprocess.DEVNULL)
    export_file(player, ExportSettings(folder, "gbav", package / "avatar.gbav"))
    shown = []
    with served(package) as address:
        for number, seconds in enumerate(CUBE_SECONDS):
            url = f"{address}/example/?avatar=../avatar.gbav&time={seconds}"
            with open_tab(url, folder / f"three{number}", 640, 480) as tab:
                tab.wait_for("document.body && document.body.innerText.includes('drawn twice')", 120)
                time.sleep(8)  # turns of the loop on a machine that draws slowly
                shown.append(tab.screenshot())
    return row(shown)


def camera_picture(player: Player, face_model: Path | None, folder: Path) -> Image:
    """The page driven by its camera, in whose place the clip is played."""
    settings = ExportSettings(folder, "web", folder / "driven", camera="npm", face_model=face_model)
    page = export_web(player, settings) / "index.html"
    film = folder / "film.mjpeg"
    cameras = player.cameras_of(slice(None), 480, 480)
    grey = torch.full((3,), 0.5)
    with open(film, "wb") as output:
        for frame in range(0, len(player.clip), 6):
            seen = replace(cameras, R=cameras.R[[frame]], t=cameras.t[[frame]], K=cameras.K[[frame]])
            image = player.render(player.codes_of(frame), seen, grey).image[0].clamp(0, 1)
            picture = (image * 255).byte().permute(1, 2, 0).numpy()[..., ::-1]
            wide = cv2.copyMakeBorder(picture, 0, 0, 80, 80, cv2.BORDER_REPLICATE)
            output.write(cv2.imencode(".jpg", wide)[1].tobytes())
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-video-capture={film}")
    with open_tab(f"{page.as_uri()}#frame=0", folder / "camera", 1000, 620, flags) as tab:
        tab.wait_for("document.body && document.body.dataset.report", 120)
        tab.evaluate("document.getElementById('camera').click()")
        tab.wait_for("WEBCAM.frames > 12", 120)
        return tab.screenshot()


def film_of(run: Path, folder: Path, *flags: str) -> list[Image]:
    """The frames of a video that reenact.py makes."""
    path = folder / "film.mp4"
    subprocess.run([sys.executable, "reenact.py", str(run.resolve()), "-o", str(path), *flags], cwd=ROOT, check=True)
    return [picture.rgb for picture in open_footage(path).pictures(Span())]


def driven(run: Path, folder: Path, count: int = 6) -> Image:
    """Another demo subject above the avatar that it drives, at frames spread over its clip."""
    data, frames = folder / "driver", 60
    subprocess.run([sys.executable, "-m", "data.demo", "--out", str(data), "--frames", str(frames), "--size", "256",
                    "--seed", "3"], cwd=ROOT, check=True)
    film = film_of(run, folder, "--driver", str(data), "--side_by_side")
    chosen = [film[round((place + 0.5) * frames / count)] for place in range(count)]
    half = chosen[0].shape[1] // 2
    return np.concatenate([row([picture[:, :half] for picture in chosen]), row([p[:, half:] for p in chosen])])


def swept(player: Player, run: Path, folder: Path) -> Image:
    """Six expressions at their height: the middle one of three frames that a short sweep gives each."""
    film = film_of(run, folder, "--sweep", "--background", "1", "1", "1", "--fps", "25", "--sweep_seconds", "0.12")
    return row([film[3 * player.expression_names.index(name) + 1] for name in SWEPT])


def encode(picture: Image) -> bytes:
    """A WebP of `QUALITY`."""
    done, data = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done
    return data.tobytes()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of train.py")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--only", nargs="*", default=[],
                        choices=("layers", "viewer", "web", "three", "camera", "driven", "swept"))
    parser.add_argument("--face_model", type=Path, help="as in track.py, for the picture of the camera")
    flags = parser.parse_args(arguments)
    player = open_player(flags.run, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        makers: dict[str, Callable[[], dict[str, Image]]] = {
            "layers": lambda: {"viewer_layers": layers(player)},
            "viewer": lambda: viewer_pictures(flags.run, folder / "viewer"),
            "web": lambda: web_pictures(player, folder),
            "three": lambda: {"web_three": three_picture(player, folder)},
            "camera": lambda: {"web_camera": camera_picture(player, flags.face_model, folder)},
            "driven": lambda: {"reenact": driven(flags.run, folder)},
            "swept": lambda: {"reenact_sweep": swept(player, flags.run, folder)}}
        for part in flags.only or makers:
            for name, picture in makers[part]().items():
                data = encode(picture)
                write_bytes(flags.out / f"{name}.webp", data)
                print(f"{flags.out / name}.webp: {picture.shape[1]} x {picture.shape[0]}, {len(data) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
