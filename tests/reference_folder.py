"""A folder as the reference leaves it after training, written by the documented layout from an avatar of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, SH
from torch import Tensor, nn

from exporting.reference_viewer import neutral_arrays, surface_arrays
from player import Player
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH

ITERATION = 40_000


def neutral_entries(rows: Tensor) -> list[Any]:
    """Entries 0 to 9 of a checkpoint tuple: active degree, parameters on no GPU, statistics."""
    arrays = {name: torch.from_numpy(array.copy()) for name, array in neutral_arrays(rows).items()}
    parameters = [arrays["pos"], arrays["shs"][:, :1], arrays["shs"][:, 1:], arrays["scale"], arrays["rot"],
                  arrays["opacity"]]
    count = len(rows)
    return [3, *(nn.Parameter(p.contiguous()) for p in parameters), torch.zeros(count), torch.zeros(count, 1),
            torch.zeros(count, 1)]


def optimizer_state(parameter: Tensor) -> dict[str, Any]:
    return {"state": {0: {"step": 39_999, "exp_avg": parameter.clone(), "exp_avg_sq": parameter.clone()}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]}


def face_constants(player: Player, rows: Tensor, correctives: float) -> dict[str, np.ndarray]:
    """The acc file: our mesh motion as D and B, correctives times a factor as C (3 in the reference), mask, weights."""
    surface, count, K = surface_arrays(player, rows), len(rows), player.num_expressions
    motion, differences = surface["D"], player.avatar.differences.to("cpu").select(rows)
    mask = np.zeros((count, K), np.float32)
    mask[differences.gaussian.long(), differences.expression.long()] = differences.mask
    return {"init_xyz": motion[:, :3], "init_rot": motion[:, 3:], "init_sh": np.zeros((count, 16, 3, K), np.float32),
            "pose_blendshape": correctives * surface["pos_t"], "eye_blendshape": surface["eyelid"],
            "expr_mask_tensor": mask, "W": surface["W"]}


def write_reference_folder(folder: Path, player: Player, source: Path, correctives: float = 1.0) -> Path:
    """The five files of the reference for this player's avatar, trained on the data set `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    neutral, parts = player.avatar.neutral.detach(), player.avatar.part
    rows = {part: (parts == part).nonzero()[:, 0] for part in (FACE, UPPER_TEETH, LOWER_TEETH)}
    face = rows[FACE]
    dense = player.avatar.differences.to("cpu").select(face).dense(player.num_expressions).transpose(1, 2)
    learnt = [dense[:, MEANS], dense[:, SH].unflatten(1, (16, 3)), dense[:, LOG_SCALES], dense[:, QUATS],
              dense[:, OPACITY]]
    entries = [*neutral_entries(neutral[face]), *(nn.Parameter(d.contiguous()) for d in learnt),
               torch.zeros(len(face), dtype=torch.int64), torch.zeros(len(face), 3), optimizer_state(dense[:, 0]), 1.0]
    assert len(entries) == 19
    torch.save((tuple(entries), ITERATION), folder / f"fix_chkpnt{ITERATION}.pth")
    np.save(folder / f"acc{ITERATION}.npy", face_constants(player, face, correctives), allow_pickle=True)  # type: ignore[arg-type]
    for name, part in (("mouth0", UPPER_TEETH), ("mouth1", LOWER_TEETH)):
        own = neutral_entries(neutral[rows[part]])
        torch.save(((*own, optimizer_state(own[1].detach()), 1.0), ITERATION), folder / f"{name}_chkpnt{ITERATION}.pth")
    (folder / "cfg_args").write_text(f"Namespace(sh_degree=3, source_path={str(source)!r}, model_path='out', "
                                     "use_nerfBS=False, use_HR=False, resolution=-1, white_background=False)")
    return folder


def write_data_set(folder: Path, player: Player) -> Path:
    """The player's clip as a tracker data set (its codes without the neck, which data sets do not have)."""
    clip, head = player.clip, player.head
    codes = clip.codes
    for i in range(len(clip)):
        flame = {name: getattr(codes, name)[i:i + 1].numpy() for name in ("jaw", "eyes", "eyelids")}
        flame |= {"shape": codes.shape[None].numpy(), "exp": codes.expression[i:i + 1].numpy(), "tex": np.zeros((1, 1))}
        record = {"flame": flame, "opencv": {"R": clip.R[i:i + 1].numpy(), "t": clip.t[i:i + 1].numpy(),
                                             "K": clip.K[i:i + 1].numpy()}}
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
        torch.save(record, folder / "checkpoint" / f"{i:05d}.frame")
        drawn = player.render(player.codes_of(i), player.cameras_of(i))
        opaque = torch.cat([drawn.image[0], torch.ones_like(drawn.alpha)])  # the black around it belongs to the picture
        rgba = opaque.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        (folder / "images").mkdir(exist_ok=True)
        assert cv2.imwrite(str(folder / "images" / f"{i:05d}.png"), np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]))
    (folder / "head.json").write_text('{"head": "open"}')
    lines = [f"v {x} {y} {z}" for x, y, z in head.v_template.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (head.faces + 1).tolist()]
    (folder / "canonical.obj").write_text("\n".join(lines))
    return folder
