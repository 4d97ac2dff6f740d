"""Several processes that train one avatar: who they are, and how they talk (docs/scale.md).

Every process has the whole avatar and a share of each batch. What they tell each other per step is in
`training/exchange.py`; here are the collectives, and what keeps the processes together where nothing is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

from utils.processes import process_count, process_rank

Result = TypeVar("Result")
# The name before torch 2.13 is deprecated there.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
PATIENCE = timedelta(minutes=30)  # that the others wait while rank 0 scores pictures or writes a checkpoint


class PeerLost(RuntimeError):
    """A collective failed because another process is gone (or the network is)."""


class TeamError(RuntimeError):
    """What went wrong in one or more processes, told to all of them; rank 0 reports it."""


@dataclass(frozen=True)
class Share:
    """The frames of each batch that one process draws: `own` of the batch, `weight` = their number / the batch size."""

    own: slice
    weight: float
    largest: int  # frames of the process that has most

    @property
    def count(self) -> int:
        """How many frames a batch are this process's."""
        return int(self.own.stop - self.own.start)


class Team:
    """`size` processes, this one of which is number `rank`. Alone (size 1) nothing is exchanged.

    All methods but `share` are collectives: every process calls them in the same order. Tensors are on the device that
    trains; on a GPU nothing waits for it, so that a step can be captured. RuntimeErrors of a collective are `PeerLost`.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.votes: WeakSet[Vote] = WeakSet()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def share(self, batch: int) -> Share:
        """This process's part of a batch of so many frames. Parts are contiguous and differ by a frame at most.

        ValueError where a process would have none.
        """
        if batch < self.size:
            raise ValueError(f"--batch_size {batch}: {self.size} processes share each batch, so it takes {self.size} "
                             "frames or more (--nproc_per_node says how many processes there are)")
        first, end = self.rank * batch // self.size, (self.rank + 1) * batch // self.size
        return Share(slice(first, end), (end - first) / batch, -(-batch // self.size))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's `tensor`, in place. All get the same bits."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """The largest of every process's numbers, in place."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors [b,...] of all processes one after another, [size * b,...]; all have one shape."""
        if self.size == 1:
            return tensor
        everything = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        with _peers():
            _all_gather(everything, tensor.contiguous())
        return everything

    def tell(self, thing: Any) -> list[Any]:
        """What every process has to say (small, picklable), in the order of ranks. Waits for all of them."""
        said = [thing] * self.size
        if self.size > 1:
            with _peers():
                dist.all_gather_object(said, thing)
        return said

    @contextmanager
    def together(self) -> Iterator[None]:
        """Does what is inside in all processes, and goes on in all or in none.

        Alone, errors are what they are. Otherwise those of users' input become one TeamError in every process.
        """
        error: Exception | None = None
        try:
            yield
        except (PeerLost, TeamError):
            raise
        except Exception as caught:
            if self.size == 1:
                raise
            error = caught
        told = self.tell(None if error is None else str(error) or type(error).__name__)
        failed = {rank: text for rank, text in enumerate(told) if text is not None}
        if failed:
            same = len(failed) == self.size and len(set(failed.values())) == 1
            lines = [told[0]] if same else [f"rank {rank}: {text}" for rank, text in failed.items()]
            raise TeamError("\n".join(lines)) from error

    def one_first(self, make: Callable[[], Result]) -> Result:
        """`make()`, by rank 0 before the others, which then find the files that it has downloaded."""
        made: list[Result] = []
        for turn in (True, False):
            with self.together():
                if self.leads == turn:
                    made.append(make())
        return made[0]

    def require_equal(self, what: str, thing: Any) -> None:
        """TeamError unless every process says the same of `what`."""
        told = self.tell(thing)
        if any(each != told[0] for each in told):
            lines = "; ".join(f"rank {rank}: {each}" for rank, each in enumerate(told))
            raise TeamError(f"the processes disagree on {what} ({lines}). They must run one version of this program "
                            "with the same flags, data and output folder, on GPUs of one kind")

    def leave(self) -> None:
        """The work is done. Graphs that captured a collective must be gone.

        A vote whose outcome nobody asked for would keep the group, and its threads would then meet the interpreter's
        end, which can abort the process.
        """
        if self.size == 1:
            return
        try:
            for vote in list(self.votes):
                vote.decided()
        finally:
            dist.destroy_process_group()

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size > 1:
            with _peers():
                dist.all_reduce(tensor, operation)
        return tensor


ALONE = Team()


class Vote:
    """The largest wish of any process (True counts 1) is that of all, told a call later, so that nobody waits for the
    others. Alone: at once.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._pending: tuple[Tensor, Any] | None = None
        team.votes.add(self)

    def cast(self, wish: int) -> int:
        """Vote, and learn what the call before decided. A collective."""
        if self._team.size == 1:
            return wish
        decided = self.decided()
        ballot = torch.tensor(int(wish), dtype=torch.int32)
        with _peers():
            self._pending = ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True)
        return decided

    def decided(self) -> int:
        """What the last call of `cast` decided, once all have cast theirs; 0 where there was none, or it was asked."""
        if self._pending is None:
            return 0
        ballot, work = self._pending
        with _peers():
            work.wait()
        self._pending = None
        return int(ballot)


def join() -> Team:
    """The team that torchrun made this process part of; alone without torchrun."""
    if process_count() == 1:
        return ALONE
    # Its functions keep the group that is there at its import, which an optimizer's first step can cause: that group's
    # threads would meet the interpreter's end (see `leave`).
    import torch.distributed.nn as _  # noqa: F401

    # What a graph replays may then lie anywhere, and capturing needs no agreement within NCCL.
    os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")
    # A CUDA build of torch has NCCL on machines without a GPU too, where its group cannot be made.
    backend = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() and torch.cuda.is_available() else "gloo"
    with _peers():
        dist.init_process_group(backend, timeout=PATIENCE)
    return Team(process_rank(), process_count())


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"lost touch with another process: {str(error).splitlines()[0]}") from error
