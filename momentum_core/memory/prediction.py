"""Predict the memory of a training step without computing it or allocating anything.

The step's own code runs on fake tensors, which have a shape, a type and a device but no memory, and
the tracker counts what it would have counted. So a prediction is what would be measured on a CPU,
up to what depends on values. Other devices choose other kernels: a fused attention, masks of
dropout of another type.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from momentum_core.config import Optimizer
from momentum_core.errors import ConfigError, DataError
from momentum_core.memory.count import StepCount, count_step
from momentum_core.memory.optimizers import (
    OneForEveryNumber,
    make_optimizer,
    state_tensors,
)
from momentum_core.memory.tracker import Change

_Module = TypeVar("_Module", bound=nn.Module)


def predict_training_step(
    model: nn.Module,
    example_input: Any,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    optimizer: Optimizer = "sgd",
) -> StepCount:
    """Predict a training step of `model`, which is neither run nor changed.

    The loss is the cross-entropy of an output of shape (B, C), else the sum of all squares.

    Args:
        model: any model, of this library or not; on any device, `meta` included.
        example_input: what its forward takes: a tensor, a tuple or a mapping. Only shapes and types
            are read, so a tensor on the device `meta` will do.
        batch_size: takes the place of the first dimension of every tensor that has the size of the
            first one's first dimension.
        dtype: float type of parameters, buffers and input, in place of their own.
        optimizer: what will keep numbers of its own.

    Raises:
        ConfigError: there is no such optimizer.
        DataError: `prediction_failed`, when the step depends on values or fails on such an input.
    """
    return predict_changes(
        model, example_input, batch_size=batch_size, dtype=dtype, optimizer=optimizer
    )[0]


def predict_changes(
    model: nn.Module,
    example_input: Any,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    optimizer: Optimizer = "sgd",
    foreach: bool | None = None,
) -> tuple[StepCount, list[Change]]:
    """Predict as `predict_training_step` does, and return every change of a storage, too.

    Args:
        model: any model.
        example_input: what its forward takes.
        batch_size: in place of the example's.
        dtype: in place of the model's own.
        optimizer: which one makes the step.
        foreach: whether it updates all parameters at once, as it does on a GPU.

    Raises:
        ConfigError: there is no such optimizer.
        DataError: `prediction_failed`.
    """
    mode = new_mode()
    faked = without_memory(model, mode, dtype=dtype).train()
    args, kwargs = _fake_input(example_input, mode, batch_size, dtype)
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    try:
        with torch.device("cpu"), mode:
            trained = [parameter for parameter in faked.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            rule = make_optimizer(optimizer, trained, foreach=foreach)

            def update() -> None:
                with OneForEveryNumber():
                    rule.step()

            update()  # makes what it keeps
            return count_step(
                faked,
                lambda: _loss(faked(*args, **kwargs)),
                given,
                kept=state_tensors(rule),
                update=update,
            )
    except ConfigError:
        raise
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"the memory of a training step of {type(model).__qualname__} cannot be predicted: "
            f"{reason}; measure it (momentum_core.memory.measure_training_step)",
            code="prediction_failed",
        ) from error


def new_mode() -> FakeTensorMode:
    """Return a mode in which tensors have no memory; constants of the model may be real."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def without_memory(
    model: _Module, mode: FakeTensorMode, *, dtype: torch.dtype | None = None
) -> _Module:
    """Return a copy of `model` whose parameters and buffers are fake tensors on the CPU."""
    copies: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        fake = _fake(tensor, mode, tensor.shape, dtype)
        if isinstance(tensor, nn.Parameter):
            fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
        copies[id(tensor)] = fake
        if tensor.grad is not None:
            copies[id(tensor.grad)] = None
    copied = copy.deepcopy(model, copies)
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


def _loss(output: Any) -> Tensor:
    floats = [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    if len(floats) == 1 and floats[0].dim() == 2:
        labels = torch.zeros(floats[0].shape[0], dtype=torch.int64)
        return F.cross_entropy(floats[0], labels)
    squares = [leaf.square().sum() for leaf in floats if leaf.requires_grad]
    return torch.stack(squares).sum()


def _fake_input(
    example_input: Any, mode: FakeTensorMode, batch_size: int | None, dtype: torch.dtype | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = [leaf for leaf in pytree.tree_leaves(example_input) if isinstance(leaf, Tensor)]
    size = tensors[0].shape[0] if tensors and tensors[0].dim() else None

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = list(leaf.shape)
        if batch_size is not None and shape and shape[0] == size:
            shape[0] = batch_size
        return _fake(leaf, mode, torch.Size(shape), dtype)

    if isinstance(example_input, Tensor):
        return (convert(example_input),), {}
    if isinstance(example_input, Mapping):
        return (), pytree.tree_map(convert, dict(example_input))
    return pytree.tree_map(convert, tuple(example_input)), {}


def _fake(
    tensor: Tensor, mode: FakeTensorMode, shape: torch.Size, dtype: torch.dtype | None
) -> Tensor:
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    with mode:
        if shape == tensor.shape and tensor.layout == torch.strided:
            return torch.empty_strided(shape, tensor.stride(), dtype=wanted, device="cpu")
        return torch.empty(shape, dtype=wanted, device="cpu")
