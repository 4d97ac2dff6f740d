"""The folders of .npy files that the viewer of the reference reads: one for the face, one for each row of teeth."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, SH
from blendshape_ops.reference import surface_motion, surface_offset
from numpy.typing import NDArray
from torch import Tensor

from arguments.export_settings import ExportSettings
from exporting.poses import refuse_pose
from player.player import Player
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH
from utils.atomic import replacing_folder

CHUNK = 4096  # Gaussians at a time: their differences take 12 kB each at 50 expressions
STEMS = {FACE: "fix_chkpnt", UPPER_TEETH: "mouth0_chkpnt", LOWER_TEETH: "mouth1_chkpnt"}
ITERATION = 40_000  # the only one at which the reference writes; its viewer finds the folders by name


def neutral_arrays(rows: Tensor) -> dict[str, NDArray[np.float32]]:
    """The attributes of Gaussians [P,60] at rest, raw: scales as logarithms, opacities as logits."""
    parts = {"pos": rows[:, MEANS], "shs": rows[:, SH].unflatten(1, (16, 3)), "scale": rows[:, LOG_SCALES],
             "rot": rows[:, QUATS], "opacity": rows[:, OPACITY]}
    return {name: part.contiguous().numpy() for name, part in parts.items()}


def surface_arrays(player: Player, rows: Tensor) -> dict[str, NDArray[np.float32]]:
    """What the Gaussians `rows` follow: pos_t [9(J-1),P,3] pose correctives, eyelid [P,3,2], W [P,J]; D [P,7,K]."""
    rig, binding = player.rig, player.avatar.binding.to("cpu").select(rows)
    faces, joints = rig.faces.cpu(), len(player.head.parents)

    def offsets(directions: Tensor | None, count: int) -> Tensor:
        if directions is None:
            return torch.zeros(count, len(rows), 3)
        return torch.stack([surface_offset(binding, faces, row.cpu().view(1, -1, 3))[0] for row in directions])

    motion = torch.stack([torch.cat(surface_motion(binding, row.cpu().view(1, -1, 16)), dim=2)[0] for row in rig.maps])
    if player.avatar.sway is not None:
        own = player.avatar.sway.expression_directions().detach()
        motion[:, :, MEANS] += offsets(own.flatten(1), len(motion))
    found = {"pos_t": offsets(rig.pose_dirs, 9 * (joints - 1)), "W": binding.weights[:, :joints],
             "eyelid": offsets(rig.eyelid_dirs, 2).permute(1, 2, 0), "D": motion.permute(1, 2, 0)}
    return {name: tensor.contiguous().numpy() for name, tensor in found.items()}


def write_differences(player: Player, rows: Tensor, surface: NDArray[np.float32], folder: Path) -> None:
    """xyz_t, rot_t, scale_t, opacity_t [P,C,K] and shs_t [P,16,3,K]: mask x learnt difference + motion of the mesh.

    Written a part at a time, because the whole takes 0.6 GB for 65,000 Gaussians.
    """
    count, K = len(rows), player.num_expressions
    shapes = {"xyz_t": (3, MEANS), "rot_t": (4, QUATS), "scale_t": (3, LOG_SCALES), "opacity_t": (1, OPACITY)}
    differences = player.avatar.differences.to("cpu")
    with ExitStack() as stack:
        files = {name: stack.enter_context(_array_file(folder / f"{name}.npy", (count, width, K)))
                 for name, (width, _) in shapes.items()}
        harmonics = stack.enter_context(_array_file(folder / "shs_t.npy", (count, 16, 3, K)))
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            own = differences.select(rows[part])
            own.values = own.mask[:, None] * own.values
            table = own.dense(K).transpose(1, 2).numpy()  # [n,60,K]
            table[:, :QUATS.stop] += surface[part]
            for name, (_, columns) in shapes.items():
                files[name].write(np.ascontiguousarray(table[:, columns], "<f4").tobytes())
            harmonics.write(np.ascontiguousarray(table[:, SH], "<f4").tobytes())


def _array_file(path: Path, shape: tuple[int, ...]) -> IO[bytes]:
    """A .npy of float32 to which the rows are yet to be written. Not mapped: a full disk kills who writes to a map."""
    file = open(path, "wb")  # noqa: SIM115 (the caller closes it)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


@torch.no_grad()
def export_folders(player: Player, settings: ExportSettings) -> Path:
    """Write the folders below one folder and return it; Gaussians that are not finite are left out.

    ValueError for flags that say a pose; WriteError when the disk refuses.
    """
    refuse_pose(settings)
    target = settings.output or settings.model_path / "export" / "npy"
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"--output: wanted a new or empty folder, got {target}")
    with replacing_folder(target) as temporary:
        for part, stem in STEMS.items():
            folder = temporary / f"{stem}{ITERATION}"
            folder.mkdir()
            _write_part(player, part, folder)
    return target


def _write_part(player: Player, part: int, folder: Path) -> None:
    neutral = player.avatar.neutral.detach().cpu()
    rows = ((player.avatar.part.cpu() == part) & neutral.isfinite().all(dim=1)).nonzero()[:, 0]
    arrays = neutral_arrays(neutral[rows])
    if part == FACE:
        surface = surface_arrays(player, rows)
        write_differences(player, rows, surface.pop("D"), folder)
        arrays |= surface
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
