"""The device that a flag names."""

from __future__ import annotations

import torch

THREADS = 8  # of the CPU beside a GPU: what is left to it are small tensors, for which more threads wait for each other


def resolve_device(name: str, process: int | None = None) -> torch.device:
    """auto, cpu, cuda or cuda:N -> device, with its number; a GPU becomes torch's current one.

    With a GPU, torch's operations on the CPU take at most `THREADS` threads from then on.
    process: number of this process among several of this host, each of which takes the GPU of that number.
    ValueError when it is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if process is not None and name.startswith("cuda"):
        if name != "cuda":
            raise ValueError(f"--device: several processes take a GPU each, in their order; wanted auto, cpu or cuda, "
                             f"got {name!r} (CUDA_VISIBLE_DEVICES chooses among the GPUs)")
        if process >= torch.cuda.device_count():
            raise ValueError(f"--device: process {process} of this host has no GPU of its own, there are "
                             f"{torch.cuda.device_count()}; start as many processes as GPUs (--nproc_per_node)")
        name = f"cuda:{process}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: wanted auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, but torch finds no usable NVIDIA GPU; use --device cpu")
    if device.type != "cuda":
        return device
    index, count = torch.cuda.current_device() if device.index is None else device.index, torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"--device: {name} was asked for, but there are {count} GPUs: cuda:0 to cuda:{count - 1}")
    torch.set_num_threads(min(torch.get_num_threads(), THREADS))
    torch.cuda.set_device(index)  # whatever names no device, as torch's own events and streams, belongs there too
    return torch.device(device.type, index)
