"""--device."""

from __future__ import annotations

import pytest
import torch

from utils.devices import resolve_device


@pytest.mark.parametrize(("name", "wanted"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0")])
def test_the_device_that_was_asked_for_becomes_the_current_one(monkeypatch, name, wanted):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert resolve_device(name) == torch.device(wanted)
    assert current == [torch.device(wanted).index]
    with pytest.raises(ValueError, match="--device: cuda:2 was asked for, but there are 2 GPUs: cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    assert resolve_device("cpu") == torch.device("cpu")
    assert len(current) == 1
