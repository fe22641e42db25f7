"""What a worker says of its device."""

from __future__ import annotations

import torch

from worker import device
from worker.device import memory_of

CPU = torch.device("cpu")


def test_a_containers_limit_is_its_memory(monkeypatch, tmp_path):
    """Or a job would be taken that the container cannot hold."""
    machine = memory_of(CPU)
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path)
    assert memory_of(CPU) >= machine
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert memory_of(CPU) >= machine
    limit.write_text(f"{512 << 20}\n")
    assert memory_of(CPU) == 512 << 20
    limit.write_text(f"{1 << 62}\n")
    assert memory_of(CPU) >= machine
