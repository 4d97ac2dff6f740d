"""What every test file shares."""

from __future__ import annotations

import signal

import pytest
import torch


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C also where a shell started pytest deaf to it (background jobs are)."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def generator() -> torch.Generator:
    """A random generator on the CPU with a fixed seed."""
    return torch.Generator().manual_seed(0)
