"""How much a process grows in physical memory while something runs (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def _read(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
