"""Which of several processes of one program this is, as torchrun tells each of them."""

from __future__ import annotations

import os


def process_rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes work together, on all hosts."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those of its host, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """How many of the processes share this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
