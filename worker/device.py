"""The device that a worker computes on."""

from __future__ import annotations

import platform

import torch

from momentum_core.errors import ConfigError


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
