"""`--format web`: a folder with a page in which the avatar lives, to be opened from the disk or any static server.

`--format gbav`: the file of it that the package in web/ loads.
"""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

from arguments.export_settings import ExportSettings
from exporting.poses import refuse_pose
from exporting.web.avatar_file import Packed, packed_avatar
from exporting.web.camera import camera_scripts
from player.player import Player
from utils.atomic import replacing_folder, write_bytes

PAGE = Path(__file__).with_name("page")
CORE = Path(__file__).parents[2] / "web" / "src" / "core"
"""ES modules that the page and the package in web/ are both made of."""
DATA_FILE, DETAILS_FILE = "avatar.js", "details.js"
_CAMERA_SCRIPTS = "\n".join(f'<script src="{name}.js"></script>' for name in ("driving", "acting", "webcam"))


def export_web(player: Player, settings: ExportSettings) -> Path:
    """Write the page of an avatar into a new folder and return it.

    ValueError when the folder is there already or the avatar does not fit the page; WriteError when the disk refuses.
    Then nothing is written.
    """
    target = settings.output if settings.output is not None else settings.model_path / "export" / "web"
    if target.exists():
        raise ValueError(f"--output: {target} exists already; the page wants a new folder: delete it or name another")
    camera = camera_scripts(player, settings) if settings.camera else {}
    packed = packed_avatar(player)
    with replacing_folder(target) as temporary:
        for source in sorted(PAGE.iterdir()):
            if source.suffix in {".html", ".css", ".js"}:
                shutil.copyfile(source, temporary / source.name)
        for source in sorted(CORE.glob("*.js")):
            (temporary / source.name).write_text(as_script(source.read_text(encoding="utf-8")), encoding="utf-8")
        for name, text in {**_data_scripts(packed), **camera}.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if camera:
            _add_camera(temporary)
    return target


def export_file(player: Player, settings: ExportSettings) -> Path:
    """Write the avatar in one file for the browser and return it. ValueError for flags that say a pose."""
    refuse_pose(settings)
    target = settings.output or settings.model_path / "export" / "avatar.gbav"
    if target.is_dir() or target.suffix != ".gbav":
        raise ValueError(f"--output: wanted the name of a .gbav file, got {target}")
    write_bytes(target, packed_avatar(player).data)
    return target


def _add_camera(folder: Path) -> None:
    """The page's part of "use my camera", and a content policy that lets WebAssembly run from the page's own memory."""
    for source in sorted((PAGE / "camera").glob("*.js")):
        shutil.copyfile(source, folder / source.name)
    page = folder / "index.html"
    text = page.read_text(encoding="utf-8")
    for place, found in (("script-src 'self' file:;", "script-src 'self' file: 'wasm-unsafe-eval'; connect-src blob:;"),
                         ("<!-- camera -->", _CAMERA_SCRIPTS)):
        assert place in text, f"{PAGE / 'index.html'} lacks {place}"
        text = text.replace(place, found)
    page.write_text(text, encoding="utf-8")


def as_script(module: str) -> str:
    """An ES module as a script whose names are everybody's: pages opened from the disk may not load modules.

    Imports are left out, so the modules' names must differ; a test holds them to it.
    """
    text = re.sub(r"^(import .*\n|export (?=async |function |class |const |let ))", "", module, flags=re.MULTILINE)
    return f'"use strict";\n{text}'


def _data_scripts(packed: Packed) -> dict[str, str]:
    """The file in two scripts. Scripts and not files to fetch: pages opened from the disk may not fetch."""
    first, rest = (base64.b64encode(part).decode() for part in (packed.data[:packed.first], packed.data[packed.first:]))
    return {DATA_FILE: f'"use strict";\nreceiveAvatar(0, "{first}");\n',
            DETAILS_FILE: f'"use strict";\nreceiveAvatar(1, "{rest}");\n'}
