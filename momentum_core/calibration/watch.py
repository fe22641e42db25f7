"""Watches where runs begin and end in a model that is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.conversion import ExampleInput
from momentum_core.errors import DataError

Take = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Tensor, tuple[Any, ...], dict[str, Any]]]
"""Takes the input out of a call's arguments; returns it and the others."""


@dataclass(frozen=True, slots=True)
class RunCall:
    """What a run was called with."""

    x: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _ReachedError(Exception):
    """The call that was waited for has come: nothing after it is needed."""


def logits_of(model: nn.Module, batch: ExampleInput) -> Tensor:
    """Return the first tensor that a model returns for a batch, in single precision.

    Raises:
        DataError: it returns no float tensor.
    """
    if isinstance(batch, Tensor):
        output = model(batch)
    elif isinstance(batch, Mapping):
        output = model(**batch)
    else:
        output = model(*batch)
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.float()
    raise DataError(
        f"{type(model).__qualname__} returned no float tensor for a batch; its first output must "
        "be logits, their last dimension the classes"
    )


@torch.no_grad()
def call_of(model: nn.Module, module: nn.Module, batch: ExampleInput, take: Take) -> RunCall:
    """Show a batch to `model`; return what `module` is called with, and go no further."""
    seen: list[RunCall] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_taken(take, args, kwargs))
        raise _ReachedError

    with _before(module, stop), suppress(_ReachedError):
        logits_of(model, batch)
    return seen[0]


@torch.no_grad()
def calls_of(
    model: nn.Module, modules: Sequence[tuple[nn.Module, Take]], batch: ExampleInput
) -> list[RunCall]:
    """Show a batch to `model`; return what each of the modules is called with."""
    seen: dict[int, RunCall] = {}

    def keep(number: int, take: Take) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[number] = _taken(take, args, kwargs)

        return hook

    with ExitStack() as stack:
        for number, (module, take) in enumerate(modules):
            stack.enter_context(_before(module, keep(number, take)))
        logits_of(model, batch)
    return [seen[number] for number in range(len(modules))]


def _taken(take: Take, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunCall:
    x, rest, named = take(args, kwargs)
    # Blocks may write into their inputs.
    return RunCall(x.clone(), rest, named)


@contextmanager
def _before(module: nn.Module, hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the first tensor that each of the modules returns, in the order of their calls."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        # What comes next may work in place.
        seen.append(pytree.tree_leaves(output)[0].clone())

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield seen


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every part back into its own afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
