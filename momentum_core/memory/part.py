"""What one part of a network holds in a training step, found on fake tensors."""

from __future__ import annotations

# ruff: noqa: ARG004 - autograd fixes the arguments of `forward` and `backward`.
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from momentum_core.memory.tracker import MemoryTracker


@dataclass(frozen=True, slots=True)
class PartProfile:
    """Bytes of one part of a network that takes a tensor and returns one."""

    held: int
    """From its forward pass to its backward pass, its input included if it keeps that."""

    forward: int
    """Most at once in its forward pass, its input included."""

    backward: int
    """Most at once in its backward pass, `held` included."""

    def plus(self, num_bytes: int) -> PartProfile:
        """Return the profile of a part that holds `num_bytes` more."""
        return PartProfile(
            self.held + num_bytes, self.forward + num_bytes, self.backward + num_bytes
        )


def profile_part(
    mode: FakeTensorMode,
    module: nn.Module,
    run: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    input_needs_grad: bool,
    given: Sequence[Tensor] = (),
) -> PartProfile:
    """Return what the forward and the backward pass of `run` hold.

    Args:
        mode: the mode that the parameters of `module` were made in.
        module: what `run` uses.
        run: a function of one tensor.
        shape: of its input.
        dtype: of its input.
        input_needs_grad: whether the gradient of the input is computed, too.
        given: tensors that `run` uses and others hold, made in `mode`; they are not counted.
    """
    with torch.device("cpu"), mode:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        known = [*module.parameters(), *module.buffers(), *gradients, *given]
        with MemoryTracker(known) as tracker:
            anchor = torch.zeros((), requires_grad=input_needs_grad)
            x = _Source.apply(anchor, shape, dtype)
            y = run(x)
            del x
            loss = _Sink.apply(y)
            del y
            held = tracker.current_bytes
            tracker.begin("backward")
            if loss.requires_grad:
                loss.backward()
    forward, backward = tracker.phases
    return PartProfile(held, forward.peak_bytes, backward.peak_bytes)


class _Source(torch.autograd.Function):
    """An input that is no leaf: a leaf's own node would keep it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        return None, None, None


class _Sink(torch.autograd.Function):
    """A number whose backward pass makes the gradient of the output, which nobody else holds."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.like = y.shape, y.stride(), y.dtype
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        shape, stride, dtype = ctx.like
        return torch.empty_strided(shape, stride, dtype=dtype)
