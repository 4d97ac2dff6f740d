"""Threads of libraries, where the pictures are shared out to threads of our own (utils/parallel.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from threadpoolctl import threadpool_limits


@contextmanager
def own_threads_only() -> Iterator[None]:
    """Keep PyTorch, OpenCV and BLAS to the thread that calls them, while pictures are shared out to threads of ours:
    theirs come on top of ours, and what one picture gives them is so little that they mostly wait for each other.
    """
    import torch  # here: who only uses `without_torch` does not wait for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with without_torch():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_torch() -> Iterator[None]:
    """`own_threads_only` where PyTorch does nothing."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        cv2.setNumThreads(before)
