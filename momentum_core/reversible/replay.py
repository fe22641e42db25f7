"""Run a block a second time exactly as it ran the first time.

What a second run depends on is written down during the first: random states, autocast, training
flags, buffers as they were, global switches, and the versions of everything that must not change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.errors import ReversibilityError
from momentum_core.reversible.switches import Switches

BlockCall = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class _Buffer:
    owner: nn.Module
    name: str
    value: Tensor
    """The tensor that the module held, or for a buffer that moved, a copy of its contents."""

    version: int

    def moved(self, before: Tensor) -> bool:
        held = self.owner._buffers.get(self.name)
        if held is not self.value or self.value._version != self.version:
            return True
        # Batch norm's kernel writes its statistics without touching the version.
        return not torch.equal(self.value, before)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A tensor that must still be the same, with the same contents, at the second run."""

    what: str
    tensor: Tensor
    version: int
    address: int

    @classmethod
    def of(cls, what: str, tensor: Tensor) -> _Fixed:
        return cls(what, tensor, _version(tensor), tensor.data_ptr())

    def changed(self) -> bool:
        return _version(self.tensor) != self.version or self.tensor.data_ptr() != self.address


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a block's first run depended on."""

    module: nn.Module
    training: tuple[tuple[nn.Module, bool], ...]
    moved: tuple[_Buffer, ...]
    """Buffers that the run changed, with their contents from before it."""

    fixed: tuple[_Fixed, ...]
    parameters: tuple[tuple[nn.Module, str, Tensor], ...]
    random: _RandomState | None
    """The random states from before the run, or None if it drew no random number."""

    switches: Switches

    def restore_buffers(self) -> None:
        """Give the block back the buffers from before its run, for a step that is repeated."""
        for buffer in self.moved:
            buffer.owner._buffers[buffer.name] = buffer.value


def first_run(
    module: nn.Module, call: BlockCall, arguments: tuple[Tensor, ...], device: torch.device
) -> tuple[Tensor, Circumstances]:
    """Run `call`, which calls `module`, and return its result with what it depended on."""
    submodules = tuple(module.modules())
    training = tuple((submodule, submodule.training) for submodule in submodules)
    parameters = tuple(
        (submodule, name, parameter)
        for submodule in submodules
        for name, parameter in submodule._parameters.items()
        if parameter is not None
    )
    buffers = [
        (_Buffer(submodule, name, buffer, buffer._version), buffer.clone())
        for submodule in submodules
        for name, buffer in submodule._buffers.items()
        if buffer is not None
    ]
    fixed = [_Fixed.of("an argument", argument) for argument in arguments]
    random = _RandomState.capture(device)
    switches = Switches.capture(device)
    with switches.applied():
        result = call()
    if any(argument.changed() for argument in fixed):
        raise ReversibilityError(
            f"block {type(module).__qualname__} wrote into one of its tensor arguments, so it "
            "cannot be recomputed; let it work on a copy",
            code="mutable_argument",
        )
    moved = tuple(
        _Buffer(buffer.owner, buffer.name, before, before._version)
        for buffer, before in buffers
        if buffer.moved(before)
    )
    moving = {(buffer.owner, buffer.name) for buffer in moved}
    names = {parameter: name for name, parameter in module.named_parameters(remove_duplicate=False)}
    fixed += [_Fixed.of(f"parameter {names[p]!r}", p) for _, _, p in parameters]
    fixed += [
        _Fixed.of(f"buffer {buffer.name!r}", buffer.value)
        for buffer, _ in buffers
        if (buffer.owner, buffer.name) not in moving
    ]
    return result, Circumstances(
        module,
        training,
        moved,
        tuple(fixed),
        parameters,
        None if random == _RandomState.capture(device) else random,
        switches,
    )


def check_unchanged(circumstances: Circumstances, where: str) -> None:
    """Raise if a second run could not be like the first.

    Raises:
        ReversibilityError: a parameter, an argument or a buffer changed since.
    """
    for owner, name, parameter in circumstances.parameters:
        if owner._parameters.get(name) is not parameter:
            raise _changed(where, f"parameter {name!r} was replaced")
    for fixed in circumstances.fixed:
        if fixed.changed():
            raise _changed(where, f"{fixed.what} was changed")


def second_run(circumstances: Circumstances, call: BlockCall, device: torch.device) -> Tensor:
    """Run `call` again under the circumstances of its first run; leave no trace."""
    with (
        circumstances.switches.applied(),
        _training_flags(circumstances.training),
        _buffers(circumstances.moved),
        _random_state(circumstances.random, device),
    ):
        return call()


def _changed(where: str, what: str) -> ReversibilityError:
    return ReversibilityError(
        f"{where}: {what} between the forward and the backward pass, so the activations cannot be "
        "recomputed; step the optimizer and change tensors only after backward()",
        code="changed_before_backward",
    )


def _version(tensor: Tensor) -> int:
    # Inference tensors have no version; they cannot be changed outside inference mode either.
    return -1 if tensor.is_inference() else tensor._version


@dataclass(frozen=True, slots=True, eq=False)
class _RandomState:
    cpu: Tensor
    device: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> _RandomState:
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), on_device)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _RandomState):
            return NotImplemented
        if not torch.equal(self.cpu, other.cpu):
            return False
        if self.device is None or other.device is None:
            return self.device is other.device
        return torch.equal(self.device, other.device)

    __hash__ = None  # type: ignore[assignment]

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, device)


@contextlib.contextmanager
def _random_state(state: _RandomState | None, device: torch.device) -> Iterator[None]:
    if state is None:
        yield
        return
    current = _RandomState.capture(device)
    state.restore(device)
    try:
        yield
    finally:
        current.restore(device)


@contextlib.contextmanager
def _training_flags(flags: tuple[tuple[nn.Module, bool], ...]) -> Iterator[None]:
    changed = [(module, module.training) for module, flag in flags if module.training != flag]
    for module, now in changed:
        module.training = not now
    try:
        yield
    finally:
        for module, now in changed:
            module.training = now


@contextlib.contextmanager
def _buffers(moved: tuple[_Buffer, ...]) -> Iterator[None]:
    # Swapped, not copied into: the current buffers keep their contents and their versions.
    current = [buffer.owner._buffers[buffer.name] for buffer in moved]
    for buffer in moved:
        buffer.owner._buffers[buffer.name] = buffer.value
    try:
        yield
    finally:
        for buffer, held in zip(moved, current, strict=True):
            buffer.owner._buffers[buffer.name] = held
