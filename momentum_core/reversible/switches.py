"""The global switches that decide which kernel computes a block, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch._guards import active_fake_mode

_Getter = Callable[[], Any]
_Setter = Callable[[Any], Any]


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _get_deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


_SWITCHES: tuple[tuple[_Getter, _Setter], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_get_deterministic, _set_deterministic),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
)


@dataclass(frozen=True, slots=True)
class Switches:
    """Autocast and kernel choice at one moment."""

    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    values: tuple[Any, ...]

    @classmethod
    def capture(cls, device: torch.device) -> Switches:
        """Read the switches that matter to a block on `device`."""
        autocast = tuple(
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in dict.fromkeys(("cpu", device.type))
        )
        return cls(autocast, tuple(get() for get, _ in _SWITCHES))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the switches to these values, with gradients on, and put them back afterwards.

        Autocast runs without its cache of cast weights: a cached weight of the first run would
        belong to another graph than the second run needs.
        """
        now = tuple(get() for get, _ in _SWITCHES)
        self._set(now, self.values)
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in self.autocast:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(
                        torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)
                    )
            stack.enter_context(torch.enable_grad())
            try:
                yield
            finally:
                self._set(self.values, now)

    @staticmethod
    def _set(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        for (_, setter), old, new in zip(_SWITCHES, before, after, strict=True):
            if old != new:
                setter(new)


def is_simulated() -> bool:
    """Whether tensors have shapes but no values (a memory prediction): nothing can be compared."""
    return active_fake_mode() is not None


_imagined_device: ContextVar[str] = ContextVar("imagined_device", default="cpu")


@contextlib.contextmanager
def imagined_on(kind: str) -> Iterator[None]:
    """Take the decisions that depend on the device as on `kind` while tensors are simulated."""
    token = _imagined_device.set(kind)
    try:
        yield
    finally:
        _imagined_device.reset(token)


def device_kind(device: torch.device) -> str:
    """Return the type of device that decisions are taken for."""
    return _imagined_device.get() if is_simulated() else device.type


def is_exporting() -> bool:
    """Whether the model is being traced or exported, so that only plain operators may appear."""
    tracing: bool = torch._C._get_tracing_state() is not None
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
