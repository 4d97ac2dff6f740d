"""Avatars in formats that other programs read. Each format is one function and one row of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from arguments.export_settings import ExportSettings
from player.player import Player

Exporter = Callable[[Player, ExportSettings], Path]
"""Writes what the settings ask for and returns the file or folder. Bad input raises ValueError, as everywhere."""

FORMATS = {
    "ply": "poses:export_poses",
    "splat": "poses:export_poses",
    "spz": "poses:export_poses",
    "gltf": "poses:export_poses",
    "npy": "reference_viewer:export_folders",
    "avatar": "compact:export_avatar",
    "web": "web:export_web",
    "gbav": "web:export_file",
}
"""Name of the format -> module:function in here, imported when asked for: a format's needs are nobody else's."""


def exporter_of(name: str) -> Exporter:
    """The function that writes a format. KeyError for a name not in `FORMATS`.

    It raises ValueError for an avatar without Gaussians, and for one with attributes or networks besides its tables: no
    format can hold them.
    """
    module, function = FORMATS[name].split(":")
    write: Exporter = getattr(import_module(f"{__name__}.{module}"), function)

    def export(player: Player, settings: ExportSettings) -> Path:
        if player.avatar.count == 0:
            raise ValueError(f"{settings.model_path}: the avatar holds no Gaussian; there is nothing to export")
        if player.avatar.extended:
            raise ValueError(f"--format {name}: the avatar learnt {', '.join(player.avatar.extended)} besides its "
                             "tables (scene/extensions.py), which the format cannot hold; it would look different")
        if settings.camera and name != "web":
            raise ValueError(f"--camera: only the web page has a camera, --format {name} has none; leave the flag out")
        if settings.face_model and not settings.camera:
            raise ValueError(f"--face_model: {settings.face_model} is for --camera, which is not given")
        return write(player, settings)

    return export
