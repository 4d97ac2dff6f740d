"""What "use my camera" needs beside the page: the numbers of `reenactment/` for one avatar, and MediaPipe.

MediaPipe's files come from its npm package and the model from a file; the page holds them as scripts, because pages
opened from the disk may not fetch.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments.export_settings import ExportSettings
from player.player import Player
from reenactment.arkit import arkit_head
from reenactment.cures import habit_of, training_range
from reenactment.curves import Curves, is_unsigned
from reenactment.motion import SeenTurns, clip_motion, middle_of
from reenactment.retarget import retarget_between, same_head
from scene.sway import LEVER, UNIT
from tracking.detector import FACE_MODEL
from tracking.model_files import ModelUnavailable, model_path
from tracking.records import BLENDSHAPE_NAMES

NPM = "npm"  # what --camera says to have the package fetched
PACKAGE = "@mediapipe/tasks-vision@0.10.33"
"""The version of the Python package that track.py and reenact.py use."""
_BUNDLE, _LOADER, _BINARY = "vision_bundle.cjs", "wasm/vision_wasm_internal.js", "wasm/vision_wasm_internal.wasm"
_NOTICE = ("// MediaPipe Tasks Vision, by the MediaPipe authors, under the Apache License, Version 2.0:\n"
           "// https://www.apache.org/licenses/LICENSE-2.0\n")
CALIBRATE = 2.0  # seconds at the start that tell the driver's habit


def camera_scripts(player: Player, settings: ExportSettings) -> dict[str, str]:
    """Texts of the scripts, by file name. ValueError or OSError naming what is missing.

    driving.js: `DRIVING`, read by page/camera/acting.js; face_library.js and face_loader.js: MediaPipe's JavaScript;
    face_data.js: its WebAssembly and the model, compressed.
    """
    numbers = json.dumps(driving(player))
    try:
        model = model_path(FACE_MODEL, settings.face_model).read_bytes()
    except ModelUnavailable as error:
        raise ValueError(str(error)) from error
    with tempfile.TemporaryDirectory() as temporary:
        folder = _fetched(Path(temporary)) if settings.camera == NPM else Path(settings.camera)
        library, loader, binary = (_read(folder, name) for name in (_BUNDLE, _LOADER, _BINARY))
    wrapped = f"{_NOTICE}var VISION = (() => {{\nconst exports = {{}};\n{library.decode()}\nreturn exports;\n}})();\n"
    data = "".join(f'receiveFaceFile("{name}", "{base64.b64encode(zlib.compress(content, 9)).decode()}");\n'
                   for name, content in (("wasm", binary), ("model", model)))
    return {"driving.js": f'"use strict";\nconst DRIVING = {numbers};\n', "face_library.js": wrapped,
            "face_loader.js": _NOTICE + loader.decode(), "face_data.js": f'"use strict";\n{data}'}


def driving(player: Player) -> dict[str, Any]:
    """The numbers by which a face moves this avatar, as `reenactment.webcam.Mirror` uses them with default cures."""
    source, head, clip = arkit_head(), player.head, player.clip
    training = Curves.of(clip.codes.at(clip.train))
    limits, habit = training_range(head, clip.codes.at(clip.train)), habit_of(training, head, "rest")
    motion = clip_motion(clip, head)
    own, turns = motion.average(), SeenTurns(motion.at(clip.train))
    names = head.expression_names
    return {
        "scores": list(BLENDSHAPE_NAMES), "arkit": {"names": list(source.expression_names),
                                                    "jaw": source.expression_jaw.tolist()},
        "retarget": None if same_head(source, head) else _retarget(player), "unsigned": is_unsigned(head),
        "jaw": head.expression_jaw.tolist(), "blinks": limits.blinks, "blinkShare": limits.blink_share,
        "mouthClose": names.index("mouthClose") if "mouthClose" in names else -1,
        "jawOpen": names.index("jawOpen") if "jawOpen" in names else -1,
        "habit": {"expression": habit.expression.tolist(), "jaw": habit.jaw.tolist(), "gaze": habit.gaze.tolist()},
        "range": {name: getattr(limits, name).tolist() for name in ("expression", "jaw", "gaze")},
        "own": {"R": _flat(own.R), "middle": _flat(own.middle), "focal": float(own.focal)},
        "turns": {"mean": _flat(turns.mean), "low": turns.low.tolist(), "high": turns.high.tolist()},
        "sway": _sway(player), "middle": middle_of(head).tolist(), "K": _flat(clip.K.mean(0)), "calibrate": CALIBRATE}


def _retarget(player: Player) -> dict[str, Any]:
    found = retarget_between(arkit_head(), player.head)
    return {"normal": found.normal.tolist(), "inverse": torch.linalg.inv(found.normal).tolist(),
            "onto": found.onto.tolist(), "rate": 1 / float(torch.linalg.matrix_norm(found.normal, 2))}


def _sway(player: Player) -> dict[str, Any] | None:
    """What tells the codes of `Avatar.sway`."""
    sway = player.avatar.sway
    if sway is None:
        return None
    return {"facing": _flat(sway.facing), "center": sway.center.tolist(), "mean": sway.mean.tolist(),
            "edge": sway.edge.tolist(), "lever": LEVER, "unit": UNIT}


def _flat(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"--camera: {path} is missing; wanted the folder of the npm package {PACKAGE} "
                                f"(npm install {PACKAGE} puts it into node_modules), or --camera {NPM}")
    return path.read_bytes()


def _fetched(folder: Path) -> Path:
    """The npm package, fetched with npm into `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"--camera {NPM}: there is no npm on this machine; name a folder of {PACKAGE} instead")
    done = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise ValueError(f"--camera {NPM}: npm could not fetch {PACKAGE}: {done.stderr.strip()[-300:]}")
    with tarfile.open(archives[0]) as archive:
        for name in (_BUNDLE, _LOADER, _BINARY):
            member = archive.extractfile(f"package/{name}")
            assert member is not None, f"{PACKAGE} has no {name}"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(member.read())
    return folder
