"""What the caching allocator and the driver say of a step on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaPeaks:
    """Measured on the device."""

    allocated_bytes: int
    """Most that tensors and workspaces took at once, above what was allocated before the step."""

    reserved_bytes: int
    """Most that the allocator held for this process, cached blocks included."""

    device_used_bytes: int
    """Used on the whole device after the step: the context, and other processes, included."""


def cuda_peaks(action: Callable[[], None], device: torch.device) -> CudaPeaks | None:
    """Run `action` and return what the device says; None on other than a CUDA device."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return CudaPeaks(
        allocated_bytes=torch.cuda.max_memory_allocated(device) - before,
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_used_bytes=total - free,
    )
