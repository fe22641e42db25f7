"""The buffers of a block as they were before it ran: to run it again, or to undo the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from momentum_core.reversible.switches import is_simulated

_KEPT_UNSEEN_BYTES = 2**16
"""On an accelerator a copy up to this size is kept without asking whether it is needed."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """One entry of a module's buffers before a run."""

    owner: nn.Module
    name: str
    exists: bool
    """Whether the module had an entry of this name."""

    tensor: Tensor | None
    """The tensor it held."""

    contents: Tensor | None
    """A copy of that tensor; the second run reads it, and moves it."""

    version: int

    def moved(self) -> bool:
        """Return whether the run replaced the tensor or wrote into it; if in doubt, True."""
        _, held = _entry(self.owner, self.name)
        if held is not self.tensor:
            return True
        if held is None or self.contents is None:
            return False
        if _is_moving_norm(self.owner) or version_of(held) != self.version:
            return True
        # `.data`, compiled kernels and batch norm's own write without touching the version.
        if _can_look(held):
            return held.layout == torch.strided and not torch.equal(held, self.contents)
        # Looking would wait for the device. A wrong guess is found out when the run is reversed.
        return held.nbytes <= _KEPT_UNSEEN_BYTES


def record(modules: Sequence[nn.Module]) -> tuple[Buffer, ...]:
    """Return all buffers of `modules`; one that several modules hold is copied once."""
    copies: dict[int, Tensor] = {}
    entries = []
    for module in modules:
        for name, tensor in module._buffers.items():
            if tensor is not None and id(tensor) not in copies:
                copies[id(tensor)] = tensor.detach().clone()
            contents = None if tensor is None else copies[id(tensor)]
            version = 0 if tensor is None else version_of(tensor)
            entries.append(Buffer(module, name, True, tensor, contents, version))
    return tuple(entries)


def moved_since(before: Iterable[Buffer], modules: Sequence[nn.Module]) -> tuple[Buffer, ...]:
    """Return those buffers of `modules` that are not as in `before`, new ones included."""
    before = tuple(before)
    known = {(buffer.owner, buffer.name) for buffer in before}
    made = [
        Buffer(module, name, False, None, None, 0)
        for module in modules
        for name, _ in module._buffers.items()  # a scripted module's table is no dictionary
        if (module, name) not in known
    ]
    return (*(buffer for buffer in before if buffer.moved()), *made)


@contextlib.contextmanager
def swapped(moved: Sequence[Buffer]) -> Iterator[None]:
    """Let modules hold what they held before; put back afterwards what they hold now.

    Swapped, not copied into: the current buffers keep their contents and their versions.
    """
    current = [_entry(buffer.owner, buffer.name) for buffer in moved]
    for buffer in moved:
        _set(buffer.owner, buffer.name, buffer.exists, buffer.contents)
    try:
        yield
    finally:
        for buffer, (exists, tensor) in zip(moved, current, strict=True):
            _set(buffer.owner, buffer.name, exists, tensor)


def restore(moved: Iterable[Buffer]) -> None:
    """Undo the run: modules hold the same tensors as before it, with the same contents.

    The tensors themselves, because others (an average of the weights, a wrapper) may hold them too.
    """
    with torch.no_grad():
        for buffer in moved:
            if buffer.tensor is not None and buffer.contents is not None:
                buffer.tensor.copy_(buffer.contents)
            _set(buffer.owner, buffer.name, buffer.exists, buffer.tensor)


def version_of(tensor: Tensor) -> int:
    """Return how often `tensor` was written to, as far as torch counts it."""
    # Inference tensors have no version; they cannot be changed outside inference mode either.
    return -1 if tensor.is_inference() else tensor._version


def _can_look(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not is_simulated()


def _is_moving_norm(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.training


def _entry(owner: nn.Module, name: str) -> tuple[bool, Tensor | None]:
    exists = name in owner._buffers
    return exists, owner._buffers[name] if exists else None


def _set(owner: nn.Module, name: str, exists: bool, tensor: Tensor | None) -> None:
    if isinstance(owner, torch.jit.ScriptModule):
        setattr(owner, name, tensor)  # its dictionary is a view that cannot be written
    elif exists:
        owner._buffers[name] = tensor
    else:
        owner._buffers.pop(name, None)
