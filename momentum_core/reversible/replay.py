"""Run a block a second time exactly as it ran the first time.

What a second run depends on is written down during the first: random states, autocast, training
flags, buffers as they were, global switches, and the versions of everything that must not change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from momentum_core.errors import ReversibilityError, StateRangeError
from momentum_core.reversible import buffers
from momentum_core.reversible.buffers import Buffer, version_of
from momentum_core.reversible.sharding import is_freed, is_sharded, sharded_error
from momentum_core.reversible.switches import Switches, is_simulated

BlockCall = Callable[[], Tensor]

NOT_THE_SAME_TWICE = (
    "a block did not compute the same values twice; look for weights that changed before "
    "backward() unseen (`.data`, a fused optimizer), state outside of buffers, random numbers not "
    "drawn from torch, or a kernel that is not deterministic "
    "(torch.use_deterministic_algorithms(True) finds those)"
)


class GraphNeeded(Exception):
    """A module asked for what its graph saved while it was still running."""


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A tensor that must still be the same, with the same contents, at the second run."""

    what: str | None
    """Of what kind and name; None is a parameter, whose name is looked up when it is told."""

    tensor: Tensor
    version: int
    storage: object
    """Its memory. Not the address: `fully_shard` frees and fills a storage between the runs."""

    @classmethod
    def of(cls, what: str | None, tensor: Tensor) -> _Fixed:
        return cls(what, tensor, version_of(tensor), _storage(tensor))

    def changed(self) -> bool:
        return version_of(self.tensor) != self.version or _storage(self.tensor) is not self.storage


def _storage(tensor: Tensor) -> object:
    return tensor.untyped_storage() if tensor.layout == torch.strided else None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a block's first run depended on."""

    module: nn.Module
    training: tuple[tuple[nn.Module, bool], ...]
    moved: tuple[Buffer, ...]
    """Buffers that the run changed, as they were before it."""

    fixed: tuple[_Fixed, ...]
    parameters: tuple[tuple[nn.Module, str, Tensor], ...]
    random: _RandomState | None
    """The random states from before the run, or None if it drew no random number."""

    switches: Switches

    def without(self, argument: Tensor) -> Circumstances:
        """Return the same without `argument`: somebody else keeps and checks it."""
        fixed = tuple(one for one in self.fixed if one.tensor is not argument)
        return replace(self, fixed=fixed)


def first_run(
    module: nn.Module,
    call: BlockCall,
    arguments: tuple[Tensor, ...],
    device: torch.device,
    *,
    keep_graph: bool = False,
) -> tuple[Tensor, Circumstances]:
    """Run `call`, which calls `module`, and return its result with what it depended on.

    Gradients are enabled, because some kernels give other bits without. Unless `keep_graph`, the
    graph shows what the result depends on, but holds no activations.

    Raises:
        GraphNeeded: not `keep_graph`, but the module differentiates something itself. Nothing has
            happened: buffers and random numbers are as before.
    """
    submodules = tuple(module.modules())
    training = tuple((submodule, submodule.training) for submodule in submodules)
    parameters = tuple(
        (submodule, name, parameter)
        for submodule in submodules
        for name, parameter in submodule._parameters.items()
        if parameter is not None
    )
    before = buffers.record(submodules)
    fixed = [_Fixed.of("an argument", argument) for argument in arguments]
    random = _RandomState.capture(device)
    switches = Switches.capture(device)
    try:
        with switches.applied(), nullcontext() if keep_graph else _nothing_saved():
            result = call()
    except StateRangeError:
        # From a stack inside the block: the step may be repeated.
        buffers.restore(buffers.moved_since(before, submodules))
        raise
    except GraphNeeded:
        buffers.restore(buffers.moved_since(before, submodules))
        random.restore(device)
        raise
    if any(argument.changed() for argument in fixed):
        raise ReversibilityError(
            f"block {type(module).__qualname__} wrote into one of its tensor arguments, so it "
            "cannot be recomputed; let it work on a copy",
            code="mutable_argument",
        )
    moved = buffers.moved_since(before, submodules)
    moving = {(buffer.owner, buffer.name) for buffer in moved}
    fixed += [_Fixed.of(None, parameter) for _, _, parameter in parameters]
    fixed += [
        _Fixed.of(f"buffer {buffer.name!r}", buffer.tensor)
        for buffer in before
        if buffer.tensor is not None and (buffer.owner, buffer.name) not in moving
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
        ReversibilityError: a parameter, an argument or a buffer changed since, or is sharded.
    """
    for owner, name, parameter in circumstances.parameters:
        # A scripted module's table is no dictionary.
        held = dict(owner._parameters.items()).get(name)
        if is_freed(parameter) or (held is not parameter and held is not None and is_sharded(held)):
            raise sharded_error(where)
        if held is not parameter:
            raise _changed(where, f"parameter {name!r} was replaced")
    for fixed in circumstances.fixed:
        if fixed.changed():
            what = fixed.what or _parameter_name(circumstances, fixed.tensor)
            raise _changed(where, f"{what} was changed")


def _parameter_name(circumstances: Circumstances, parameter: Tensor) -> str:
    module = circumstances.module
    names = {id(one): name for _, name, one in circumstances.parameters}
    # From the block where it still has it; a part of it may have been replaced.
    names |= {id(one): name for name, one in module.named_parameters(remove_duplicate=False)}
    return f"parameter {names[id(parameter)]!r}"


def second_run(circumstances: Circumstances, call: BlockCall, device: torch.device) -> Tensor:
    """Run `call` again under the circumstances of its first run; leave no trace."""
    with (
        circumstances.switches.applied(),
        _training_flags(circumstances.training),
        buffers.swapped(circumstances.moved),
        _random_state(circumstances.random, device),
    ):
        return call()


def _nothing_saved() -> saved_tensors_hooks:
    return saved_tensors_hooks(_forget, _never_asked_for)


def _forget(_: Tensor) -> None:
    return None


def _never_asked_for(_: None) -> Tensor:
    raise GraphNeeded


def restore_buffers(history: Iterable[Circumstances]) -> None:
    """Undo what the runs of `history`, oldest first, did to buffers: the step may be repeated."""
    for circumstances in reversed(tuple(history)):
        buffers.restore(circumstances.moved)


def _changed(where: str, what: str) -> ReversibilityError:
    return ReversibilityError(
        f"{where}: {what} between the forward and the backward pass, so the activations cannot be "
        "recomputed; step the optimizer and change tensors only after backward()",
        code="changed_before_backward",
    )


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
        if is_simulated():
            return True
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
