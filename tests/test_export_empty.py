"""Exports of an avatar without Gaussians: no file, but a sentence."""

from __future__ import annotations

import dataclasses
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arguments.export_settings import ExportSettings
from exporting import FORMATS, exporter_of
from exporting.splat_files import write_gltf, write_ply, write_splat, write_spz
from exporting.splats import SplatCloud
from scene.checkpoint import CheckpointError, avatar_from_tensors, avatar_tensors
from tests.avatars import small_avatar
from tests.player_subject import lively_player


@pytest.mark.parametrize("write", [write_ply, write_splat, write_spz, write_gltf])
def test_nothing_is_written_of_no_gaussians(tmp_path: Path, write: Any) -> None:
    shapes = {"means": (0, 3), "quats": (0, 4), "scales": (0, 3), "opacities": (0,), "sh": (0, 16, 3)}
    nothing = SplatCloud(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    with pytest.raises(ValueError, match=r"head\.file: not written: there is no Gaussian to write"):
        write(nothing, tmp_path / "head.file")
    assert not list(tmp_path.iterdir())


def test_an_empty_avatar_is_not_exported_in_any_format(tmp_path: Path) -> None:
    empty = copy(lively_player())  # which other tests share
    empty.avatar = copy(empty.avatar)
    empty.avatar.select_rows(torch.zeros(0, dtype=torch.long), empty.avatar.neutral.detach()[:0])
    for name in FORMATS:
        chosen: Any = {"format": name}
        settings = dataclasses.replace(ExportSettings(tmp_path / "run"), **chosen)
        with pytest.raises(ValueError, match="run: the avatar holds no Gaussian; there is nothing to export"):
            exporter_of(name)(empty, settings)


def test_an_empty_checkpoint_is_not_opened() -> None:
    avatar = small_avatar()
    avatar.select_rows(torch.zeros(0, dtype=torch.long), avatar.neutral.detach()[:0])
    with pytest.raises(CheckpointError, match=r"avatar\.safetensors: holds no Gaussian"):
        avatar_from_tensors(avatar_tensors(avatar), "avatar.safetensors")
