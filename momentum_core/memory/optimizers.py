"""The optimizers whose step is counted, real ones, and their step on tensors without values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from momentum_core.config import Optimizer
from momentum_core.errors import ConfigError

_RATE = 1e-9
"""Weights stay nearly what they are while steps are counted: where they go does not matter."""


def make_optimizer(
    name: Optimizer, parameters: Iterable[nn.Parameter], *, foreach: bool | None = None
) -> torch.optim.Optimizer:
    """Return torch's optimizer of that name, which will keep its numbers after its first step.

    Args:
        name: which one.
        parameters: what it trains.
        foreach: update all parameters at once, which takes more memory for a moment; None leaves
            that to torch: so on a GPU, and one after another on a CPU.

    Raises:
        ConfigError: there is no such optimizer.
    """
    trained = list(parameters)
    if name == "adam":
        return torch.optim.Adam(trained, lr=_RATE, foreach=foreach)
    if name in get_args(Optimizer):
        momentum = 0.9 if name == "sgd_momentum" else 0.0
        return torch.optim.SGD(trained, lr=_RATE, momentum=momentum, foreach=foreach)
    names = ", ".join(get_args(Optimizer))
    raise ConfigError(f"optimizer must be one of {names}, got {name!r}")


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors that an optimizer keeps between steps."""
    leaves = pytree.tree_leaves(list(optimizer.state.values()))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class OneForEveryNumber(TorchDispatchMode):
    """Answers 1 to whoever asks for a tensor's value: Adam asks how many steps it has made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator, unless it reads a value."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return func(*args, **(kwargs or {}))
