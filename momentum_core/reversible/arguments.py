"""The extra arguments of a stack, passed on to every block: masks, positions, memories."""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.errors import ReversibilityError

_IMMUTABLE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    enum.Enum,
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)


class Arguments:
    """Positional and keyword arguments, taken apart into tensors and the rest."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take `args` and `kwargs` apart.

        Raises:
            ReversibilityError: an argument could change while the blocks run (a cache, say), so a
                second run would not see what the first saw.
        """
        self._leaves, self._structure = pytree.tree_flatten((args, kwargs))
        for leaf in self._leaves:
            if not isinstance(leaf, Tensor) and not _is_immutable(leaf):
                raise ReversibilityError(
                    f"a block's argument is a {type(leaf).__qualname__}, which can change while "
                    "the blocks run, so they cannot be recomputed; pass tensors, numbers or "
                    "containers of them (for a key-value cache: use_cache=False while training)",
                    code="mutable_argument",
                )
        self.tensors = tuple(leaf for leaf in self._leaves if isinstance(leaf, Tensor))
        self.differentiable = tuple(tensor for tensor in self.tensors if tensor.requires_grad)

    def unflatten(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as they were given."""
        args, kwargs = pytree.tree_unflatten(self._leaves, self._structure)
        return args, kwargs

    def call(self, module: nn.Module, x: Tensor, leaves: tuple[Tensor, ...]) -> Callable[[], Any]:
        """Return a function that calls `module` with `x` and the arguments.

        Args:
            module: the block.
            x: its first argument.
            leaves: stand-ins for `differentiable`, in that order.

        The function raises ReversibilityError if the block changes a container among them.
        """
        stand_ins = iter(leaves)
        given = [
            next(stand_ins) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf
            for leaf in self._leaves
        ]

        def run() -> Any:
            args, kwargs = pytree.tree_unflatten(given, self._structure)
            result = module(x, *args, **kwargs)
            after, structure = pytree.tree_flatten((args, kwargs))
            same = structure == self._structure and all(
                now is before for now, before in zip(after, given, strict=True)
            )
            if not same:
                raise ReversibilityError(
                    f"block {type(module).__qualname__} changed a list or dictionary among its "
                    "arguments, so it cannot be recomputed; let it return a new one",
                    code="mutable_argument",
                )
            return result

        return run


def _is_immutable(leaf: object) -> bool:
    if isinstance(leaf, _IMMUTABLE):
        return True
    parameters = getattr(type(leaf), "__dataclass_params__", None)
    return dataclasses.is_dataclass(leaf) and parameters is not None and bool(parameters.frozen)
