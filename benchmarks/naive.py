"""The plain way as a comparison: python -m benchmarks.naive -s SUBJECT [--gaussians 55000 100000] [--dense]

The same steps as `benchmarks.training` on the same world, from the same start, to the same result (a test holds the
two together), but as one would write them in PyTorch: the attributes are separate tensors, put together in every step;
blending, posing, colour and image loss are the definitions in plain torch (backend "torch"); the differences have
dense gradients; torch.optim.Adam, fused where the device has that, steps all of them; no CUDA graph. Only the
rasterizer is ours, because one in plain torch would be no fair comparison.

By default the differences are stored as ours are: for pairs of a Gaussian and an expression whose mask is not zero.
With --dense every Gaussian of the face has all expressions, as in the method's own tables.
"""

from __future__ import annotations

from functools import partial
from unittest import mock

import torch
from blendshape_ops import WIDTH, Differences, image_loss
from torch import Tensor

from arguments import TrainSettings
from benchmarks.training import parser_of, run
from gaussian_renderer import RenderOutput
from scene.avatar import FACE
from scene.extensions import parameter_rates
from scene.schema import ATTRIBUTES, learning_rates
from training import losses
from training.trainer import Trainer
from training.world import World

EPSILON = 1e-15  # Adam's, as in FactoredAdam


class NaiveTrainer(Trainer):
    """Trains with plain torch and ordinary Adam. Cannot densify, save or restore."""

    def __init__(self, settings: TrainSettings, world: World, device: torch.device, dense: bool = False) -> None:
        """`dense`: differences also for pairs whose mask is zero."""
        self._dense = dense
        super().__init__(settings, world, device, capture=False)

    def _renew_optimizer(self) -> None:
        if self._dense:
            self.avatar.differences = all_pairs(self.avatar.differences, self.avatar.part == FACE,
                                                self.world.rig.num_expressions)
        self._neutral = split_columns(self.avatar.neutral)
        self._differences = split_columns(self.avatar.differences.values)
        extra = self.avatar.extra_parameters().values()
        groups = [{"params": [part]} for part in (*self._neutral, *self._differences, *extra)]
        self.adam = torch.optim.Adam(groups, lr=0.0, eps=EPSILON, fused=self.device.type == "cuda")
        self._renew_stats()

    def _compute(self) -> tuple[dict[str, Tensor], RenderOutput]:
        avatar, inputs = self.avatar, self._inputs
        avatar.neutral = join_columns(self._neutral)
        avatar.differences.values = join_columns(self._differences)  # its gradient is wanted: plain torch is chosen
        output, posed, drive = self._draw(inputs.frames, self.stats if self._collecting else None, avatar, None, False)
        context = losses.LossContext.of(self.world, inputs.frames, output, posed, drive, inputs.rgba, avatar,
                                        self.settings.optimization, self.perceptual)
        with mock.patch.object(losses, "image_loss", partial(image_loss, backend="torch")):
            terms = losses.weighted_losses(context)
        torch.stack(list(terms.values())).sum().backward()
        for group, rate in zip(self.adam.param_groups, self._rates(), strict=True):
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad()
        return {name: term.detach() for name, term in terms.items()}, RenderOutput(*(part.detach() for part in output))

    def _rates(self) -> list[float]:
        tables = learning_rates(self.settings.optimization, self.iteration)
        extra = parameter_rates(self.avatar, self.settings.optimization)
        return [*(float(table[row.columns][0]) for table in tables for row in ATTRIBUTES), *extra.values()]


def split_columns(table: Tensor) -> list[Tensor]:
    """The attributes of a packed table [rows,60] as leaves."""
    return [table.detach()[:, row.columns].clone().requires_grad_() for row in ATTRIBUTES]


def join_columns(parts: list[Tensor]) -> Tensor:
    """The packed table [rows,60] of its attributes, which lie in the order of its columns, and its padding."""
    rows = len(parts[0])
    pad = parts[0].new_zeros(rows, WIDTH - sum(part.shape[1] for part in parts))
    return torch.cat([*parts, pad], dim=1)


def all_pairs(differences: Differences, faces: Tensor, expressions: int) -> Differences:
    """The same differences, also for all pairs of the Gaussians `faces` [N] bool whose mask was zero."""
    mask = differences.mask.new_zeros(differences.num_gaussians, expressions)
    mask[differences.gaussian.long(), differences.expression.long()] = differences.mask
    # Pairs exist where the mask is positive; this one is too small to move anything.
    mask[faces] = mask[faces].clamp_min(torch.finfo(mask.dtype).tiny)
    everything = Differences.from_mask(mask)
    everything.values = differences.dense(expressions)[everything.gaussian.long(), everything.expression.long()]
    return everything


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--dense", action="store_true", help="every expression for every Gaussian of the face")
    parser.set_defaults(batch_sizes=[1])
    args = parser.parse_args()
    run(args, partial(NaiveTrainer, dense=args.dense), "naive dense" if args.dense else "naive")


if __name__ == "__main__":
    main()
