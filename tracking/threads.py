"""Threads of libraries, where the pictures are shared out to threads of our own (utils/parallel.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch
from threadpoolctl import threadpool_limits


@contextmanager
def own_threads_only() -> Iterator[None]:
    """Keep PyTorch, OpenCV and BLAS to the thread that calls them, while pictures are shared out to threads of ours:
    theirs come on top of ours, and what one picture gives them is so little that they mostly wait for each other.
    """
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
