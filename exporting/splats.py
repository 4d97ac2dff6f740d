"""One pose of an avatar as plain Gaussians in world axes: what every splat file holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from blendshape_ops import SH, SH_C0, limit_codes, polar3
from blendshape_ops.reference import blend
from numpy.typing import NDArray

from exporting.sh_rotation import rotate_sh
from flame.rotations import quat_from_matrix, quat_multiply
from player.player import Player
from scene.rig import Codes

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SplatCloud:
    """N Gaussians, float32 NumPy.

    means [N,3], scales [N,3] standard deviations: metres; quats [N,4] unit (w,x,y,z); opacities [N] in (0,1);
    sh [N,C,3] with C = 1, 4, 9 or 16: colour = max(0, 0.5 + sum_j sh_j Y_j(d)), d the world direction from the camera.
    """

    means: FloatArray
    quats: FloatArray
    scales: FloatArray
    opacities: FloatArray
    sh: FloatArray

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return round(self.sh.shape[1] ** 0.5) - 1

    @property
    def base_colors(self) -> FloatArray:
        """[N,3] colour without the part that depends on the direction; not limited to [0,1]."""
        return np.asarray(0.5 + SH_C0 * self.sh[:, 0], dtype=np.float32)

    def rotated(self, rotation: NDArray[np.float64]) -> SplatCloud:
        """The cloud turned about the origin by a rotation matrix [3,3]."""
        turn = torch.from_numpy(rotation)
        quats = quat_multiply(quat_from_matrix(turn).expand(len(self), 4), torch.from_numpy(self.quats).double())
        sh = rotate_sh(torch.from_numpy(self.sh), turn[None])
        means = np.asarray(self.means @ rotation.T, dtype=np.float32)
        return SplatCloud(means, quats.float().numpy(), self.scales, self.opacities, sh.numpy())


@torch.no_grad()
def posed_splats(player: Player, codes: Codes) -> SplatCloud:
    """The avatar in one pose (codes of one frame). Gaussians that are not finite, which are never drawn, are left out.

    The renderer looks colours up in each Gaussian's own frame; here the harmonics are turned by that frame instead, so
    that any viewer of splat files shows the same picture.
    """
    avatar, count = player.avatar, (player.sh_degree + 1) ** 2
    rows, nowhere = torch.zeros(1, dtype=torch.int64, device=player.device), torch.zeros(1, 3, device=player.device)
    drive = player.rig.with_codes(codes).drive(rows, nowhere)
    posed = avatar.pose(drive, 0)  # its colours are not looked at
    beta = limit_codes(drive.beta, avatar.code_range)
    sh = blend(avatar.neutral, avatar.differences, beta)[0, :, SH].unflatten(-1, (16, 3))[:, :count]
    rotation = polar3(torch.einsum("nj,jrc->nrc", avatar.binding.weights, drive.bones[0])[..., :3])
    quats = torch.nn.functional.normalize(posed.quats[0], dim=-1)
    parts = [posed.means[0], quats, posed.scales[0], posed.opacities[0], rotate_sh(sh.contiguous(), rotation)]
    finite = torch.stack([part.flatten(1).isfinite().all(dim=1) if part.ndim > 1 else part.isfinite()
                          for part in parts]).all(dim=0)
    return SplatCloud(*(part[finite].float().cpu().numpy() for part in parts))
