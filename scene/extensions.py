"""What an avatar may learn besides its packed table: attributes of every Gaussian, and networks. Two tables of names.

Both tables are empty as shipped; CONTRIBUTING.md ("Adding things") shows a row of each. `Avatar.pose` applies them, so
they take part in training, test.py, Player and FastRenderer; a checkpoint holds them by name; export.py refuses an
avatar that has some, because no format can hold them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from blendshape_ops import Drive, Posed
from torch import Tensor, nn

from arguments import ModelSettings, OptimizationSettings

if TYPE_CHECKING:
    from scene.avatar import Avatar


@dataclass(frozen=True)
class ExtraAttribute:
    """Numbers [N,width] of every Gaussian in a tensor of their own: `avatar.attributes[name]`.

    start: their value in an untrained avatar. rate: the field of OptimizationSettings that holds their learning rate;
    where it is 0, the avatar has no such attribute. use: what they do to posed Gaussians of B frames, or None (then
    only losses look at them). Clones and split children start with the numbers of their parent.
    """

    width: int
    start: float
    rate: str
    use: Callable[[Posed, Avatar, Drive], Posed] | None = None


class Network(nn.Module, ABC):
    """A module that changes posed Gaussians: `avatar.networks[name]`.

    `rate` names the field of OptimizationSettings that holds the learning rate of all its parameters; where it is 0,
    the avatar has no such network. The constructor takes what `options` returns, by name, and nothing else. A network
    draws no random numbers outside of its constructor, and `forward` neither waits for the device nor has shapes that
    depend on values: a step is captured as a CUDA graph.
    """

    rate: ClassVar[str]

    @classmethod
    @abstractmethod
    def options(cls, avatar: Avatar, model: ModelSettings) -> dict[str, Any]:
        """Constructor arguments for an untrained avatar; JSON numbers, texts and lists, kept in the checkpoint."""

    @abstractmethod
    def forward(self, posed: Posed, avatar: Avatar, drive: Drive) -> Posed:
        """Gaussians of B frames, changed; differentiable. `avatar` holds the tables of its N Gaussians."""


SWAY_BATCH = 8  # images of a step that `sway_lr` is for; the gradient of fewer is noise in a larger part

ATTRIBUTES: dict[str, ExtraAttribute] = {
}

NETWORKS: dict[str, type[Network]] = {
}


def extend(avatar: Avatar, optimization: OptimizationSettings, model: ModelSettings, seed: int) -> Avatar:
    """Add the attributes and networks whose learning rate is not 0 to an untrained avatar (on the CPU), in place."""
    for name in wanted_names(ATTRIBUTES, optimization):
        row = ATTRIBUTES[name]
        avatar.attributes[name] = torch.full((avatar.count, row.width), row.start, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        for name in wanted_names(NETWORKS, optimization):
            torch.manual_seed(seed)
            options = NETWORKS[name].options(avatar, model)
            avatar.networks[name] = NETWORKS[name](**options)
            avatar.network_options[name] = options
    return avatar


def wanted_names(table: Mapping[str, ExtraAttribute | type[Network]], optimization: OptimizationSettings) -> list[str]:
    """The rows of `ATTRIBUTES` or `NETWORKS` whose learning rate is not 0."""
    return [name for name, row in table.items() if getattr(optimization, row.rate) > 0]


def parameter_rates(avatar: Avatar, optimization: OptimizationSettings) -> dict[str, float]:
    """The learning rate of every tensor that `Avatar.extra_parameters` names."""
    kinds: dict[str, Mapping[str, ExtraAttribute | type[Network]]] = {"attributes": ATTRIBUTES, "networks": NETWORKS}
    rates = {}
    for full in avatar.extra_parameters():
        kind, name = full.split(".")[:2]
        if kind in kinds:
            rates[full] = float(getattr(optimization, kinds[kind][name].rate))
        else:
            rates[full] = optimization.sway_lr * optimization.batch_size / SWAY_BATCH
    return rates


def apply_extensions(posed: Posed, avatar: Avatar, drive: Drive) -> Posed:
    """Posed Gaussians after the avatar's attributes and networks, in the order of the tables."""
    for name in avatar.attributes:
        use = ATTRIBUTES[name].use
        posed = posed if use is None else use(posed, avatar, drive)
    for network in avatar.networks.values():
        posed = network(posed, avatar, drive)
    return posed


def on_new_leaves(networks: nn.ModuleDict) -> nn.ModuleDict:
    """The same networks in the same memory, every parameter as a new leaf of autograd."""
    if not networks:
        return networks
    memory: dict[int, Any] = {id(buffer): buffer for buffer in networks.buffers()}
    memory |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in networks.parameters()}
    return deepcopy(networks, memory)


def attributes_from(tensors: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Attributes of `count` Gaussians from saved tensors by name. ValueError for one that does not fit its row."""
    _require_known("attribute", tensors, ATTRIBUTES)
    for name, values in tensors.items():
        wanted = [count, ATTRIBUTES[name].width]
        if list(values.shape) != wanted or values.dtype != torch.float32:
            raise ValueError(f"attributes.{name}: wanted float32 {wanted}, got {values.dtype} {list(values.shape)}")
    return {name: tensors[name].requires_grad_(True) for name in ATTRIBUTES if name in tensors}


def networks_from(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.ModuleDict:
    """Networks from their saved options and state ("name.parameter"). ValueError for what does not fit."""
    _require_known("network", options, NETWORKS)
    networks = nn.ModuleDict()
    for name in (name for name in NETWORKS if name in options):
        state = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        try:
            with torch.device("meta"):  # sizes are compared before memory is taken
                wanted = {key: list(value.shape) for key, value in NETWORKS[name](**options[name]).state_dict().items()}
            found = {key: list(value.shape) for key, value in state.items()}
            if wanted != found:
                raise ValueError(f"wanted {wanted}, got {found}")
            with torch.random.fork_rng(devices=[]):
                networks[name] = NETWORKS[name](**options[name])
            networks[name].load_state_dict(state)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"network {name!r} with options {options[name]!r}: {error}") from None
    unused = sorted(key for key in tensors if key.split(".")[0] not in options)
    if unused:
        raise ValueError(f"networks: state.json names no network for {unused}")
    return networks


def _require_known(kind: str, names: Iterable[str], table: Mapping[str, object]) -> None:
    unknown = sorted(set(names) - set(table))
    if unknown:
        raise ValueError(f"the avatar has the {kind} {unknown[0]!r}, which this program does not know; it knows "
                         f"{sorted(table) or 'none'} (scene/extensions.py)")
