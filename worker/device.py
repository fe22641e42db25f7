"""The device that a worker computes on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from momentum_core.errors import ConfigError
from worker.contract.worker_store import Device

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def choose_device(name: str) -> torch.device:
    """Return the device of the setting `MOMENTUM_DEVICE`.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"MOMENTUM_DEVICE is {name!r}, which this worker does not have ({reason}); "
            "try auto, cpu or cuda"
        ) from None
    return device


def describe_device(device: torch.device) -> str:
    """Return the device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def memory_of(device: torch.device) -> int:
    """Return all the memory that a device has, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((machine, *_group_limits()))


def _group_limits() -> Iterator[int]:
    """Yield the memory limits of this process's control groups (v2): a container's, for one."""
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        return
    for line in own.splitlines():
        number, _, path = line.partition("::")
        if number != "0":
            continue  # of version 1
        folder = _CONTROL_GROUPS / path.strip().lstrip("/")
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # no limit is the word "max"
                yield int((group / "memory.max").read_text())


def device_facts(device: torch.device) -> Device:
    """Return what the list of workers says of a device."""
    return Device(
        name=str(device),
        model=describe_device(device),
        memory_bytes=memory_of(device),
        num_threads=torch.get_num_threads(),
    )
