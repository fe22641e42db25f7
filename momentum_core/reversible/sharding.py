"""Recognise parameters that a wrapper shards: it frees or moves them before they are needed again.

FullyShardedDataParallel and `fully_shard` of single blocks are refused. `fully_shard` of the stack
or of what holds it works: it gathers all parameters again before the stack's backward pass starts.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from momentum_core.errors import ReversibilityError

_WRAPPERS = ("FullyShardedDataParallel", "FSDPModule")

_known: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()
"""Whether a class is a wrapper; every block of every step asks."""


def check_not_sharded(module: nn.Module, where: str) -> None:
    """Raise if a part of `module` shards its parameters by itself, or they are shards now.

    Raises:
        ReversibilityError: it is so; `where` names run and block.
    """
    if any(_is_wrapper(type(submodule)) for submodule in module.modules()):
        raise sharded_error(where)
    if any(is_sharded(parameter) for parameter in module.parameters()):
        raise sharded_error(where)


def is_sharded(parameter: Tensor) -> bool:
    """Return whether `parameter` is a shard, or lives in memory that a wrapper frees and fills."""
    # By name and mark: importing torch.distributed here would cost every user a second.
    if type(parameter).__name__ == "DTensor" or is_freed(parameter):
        return True
    return any(getattr(owner, "_is_flat_param", False) for owner in (parameter, parameter._base))


def is_freed(parameter: Tensor) -> bool:
    """Return whether a wrapper has freed the memory of `parameter` for the time being."""
    if parameter.layout != torch.strided or parameter.numel() == 0:
        return False
    return parameter.untyped_storage().nbytes() == 0


def sharded_error(where: str) -> ReversibilityError:
    """Return the error that says so."""
    return ReversibilityError(
        f"{where}: its parameters are sharded (FSDP or DTensor), which frees or moves them before "
        "they are needed again; use DistributedDataParallel, or apply fully_shard to the stack as "
        "a whole",
        code="sharded_parameters",
    )


def _is_wrapper(kind: type[nn.Module]) -> bool:
    if kind not in _known:
        _known[kind] = any(base.__name__ in _WRAPPERS for base in kind.__mro__)
    return _known[kind]
