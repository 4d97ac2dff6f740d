"""A headless Chromium for tests, driven through the DevTools protocol over the websockets package that viser brings."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_SECONDS = 30


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, None when there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page of a running browser."""

    def __init__(self, address: str) -> None:
        self._socket = connect(address, max_size=None, open_timeout=START_SECONDS)
        self._numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result; RuntimeError when the browser refuses it."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=START_SECONDS))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20) -> Any:
        """The first truthy value of an expression; TimeoutError when it stays falsy."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.evaluate(script)
            if value:
                return value
            time.sleep(0.1)
        raise TimeoutError(f"not within {seconds} s: {script}")

    def screenshot(self) -> np.ndarray:
        """What the page looks like, uint8 RGB [H,W,3]."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None, "the browser sent no PNG"
        return np.ascontiguousarray(image[..., ::-1])

    def click(self, x: float, y: float) -> None:
        """Press and release the left mouse button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle_of(self, selector: str, text: str, seconds: float = 20) -> tuple[float, float]:
        """Where the first visible element of a CSS selector with just this text lies, when there is one."""
        x, y = self.wait_for(f"""(() => {{
            for (const element of document.querySelectorAll({json.dumps(selector)})) {{
                if (element.innerText === undefined || element.innerText.trim() != {json.dumps(text)}) continue;
                element.scrollIntoView({{block: 'nearest'}});
                const box = element.getBoundingClientRect();
                if (box.width) return [box.x + box.width / 2, box.y + box.height / 2];
            }}
            return null}})()""", seconds)
        return x, y

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        """Press at `start`, move to `end`, release."""
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def open_tab(url: str, profile: Path, width: int, height: int, flags: Sequence[str] = ()) -> Iterator[Tab]:
    """A fresh browser that shows `url`, started with further `flags`; its profile and log lie in `profile`."""
    chromium = find_chromium()
    if chromium is None:
        raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)} on PATH")
    profile.mkdir(parents=True, exist_ok=True)
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0",
               f"--user-data-dir={profile / 'profile'}", "--no-first-run", "--use-angle=swiftshader",
               "--enable-unsafe-swiftshader", "--hide-scrollbars", "--mute-audio", f"--window-size={width},{height}",
               *flags, "about:blank"]
    log = profile / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "HOME": str(profile)})
    try:
        tab = Tab(_first_tab(process, log))
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        tab.call("Page.navigate", url=url)
        yield tab
        tab.close()
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _first_tab(process: subprocess.Popen[bytes], log: Path) -> str:
    """Address of the websocket of the first tab."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"ws://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace"))
        if found:
            with urllib.request.urlopen(f"http://127.0.0.1:{found.group(1)}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise TimeoutError(f"the browser did not start: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static server of `folder` on this machine's loopback."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing: pytest's output is for failures."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
