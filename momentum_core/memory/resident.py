"""How much memory a process has, and how much it grows while something runs (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def resident_growth(action: Callable[[], None]) -> int | None:
    """Run `action`; return the bytes by which resident memory rose above its start, at most.

    It is less than what tensors took where the allocator still had memory of earlier tensors, and
    more by what libraries use themselves. None where the system does not tell.
    """
    try:
        _RESET.write_text("5")  # the highest mark starts at what is resident now
        before = _read("VmRSS")
    except OSError:
        action()
        return None
    action()
    return max(0, _read("VmHWM") - before)


def memory_held(device: torch.device) -> int | None:
    """Return the most bytes that torch has allocated on a GPU so far.

    Elsewhere: what the process has in physical memory at this moment, or None where the system
    does not tell.

    Args:
        device: what is computed on.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return _read("VmRSS")
    except OSError:
        return None


def _read(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
