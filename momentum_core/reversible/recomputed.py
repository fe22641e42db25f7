"""`Recomputed`: a module that keeps its input instead of its activations, and replays exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import replay
from momentum_core.reversible.captured import check_captured, edge_of
from momentum_core.reversible.checksum import checksum
from momentum_core.reversible.evaluation import Evaluation
from momentum_core.reversible.function import refuse_double_backward
from momentum_core.reversible.pull_back import pull_back
from momentum_core.reversible.refill import run_refillable
from momentum_core.reversible.replay import GraphNeeded
from momentum_core.reversible.sharding import check_not_sharded
from momentum_core.reversible.stack import MomentumStack
from momentum_core.reversible.switches import is_exporting, is_simulated


class Recomputed(nn.Sequential):
    """Modules in sequence that are run a second time in the backward pass.

    For what a momentum stack cannot hold because it changes the shape: a stem, a transition. Unlike
    `torch.utils.checkpoint`, batch norm statistics move once in a step, not twice.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return what the modules return; shape and dtype are theirs to choose.

        Raises:
            ReversibilityError: the modules cannot be run again as they are used here.
        """
        if not _is_recorded(self, input):
            return self.run(input)
        if not _recomputes_itself(self):
            check_not_sharded(self, _where(self))
            with suppress(GraphNeeded):
                return run_refillable(self, self.run, input, _where(self))
        return _recompute(self, self.run, input)

    def run(self, x: Tensor) -> Tensor:
        """Run the modules in the ordinary way."""
        for module in self:
            x = module(x)
        return x


def recompute_whole(module: nn.Module, x: Tensor) -> Tensor:
    """Return `module(x)`, keeping `x` alone; for a module that recomputes parts of itself.

    Raises:
        ReversibilityError: the module cannot be run again as it is used here.
    """
    if not _is_recorded(module, x):
        result: Tensor = module(x)
        return result
    return _recompute(module, module, x)


def _is_recorded(module: nn.Module, x: Tensor) -> bool:
    needs_grad = x.requires_grad or any(p.requires_grad for p in module.parameters())
    return torch.is_grad_enabled() and needs_grad and not is_exporting()


def _recompute(module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    parameters = (parameter for parameter in module.parameters() if parameter.requires_grad)
    output: Tensor = _Recompute.apply(module, run, x, *parameters)
    return output


class _Recompute(torch.autograd.Function):
    """For modules that hold runs or recompute parts: their graph would keep what those keep."""

    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        run: Callable[[Tensor], Tensor],
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        check_not_sharded(module, _where(module))
        ctx.set_materialize_grads(False)
        ctx.module, ctx.run = module, run
        ctx.parameters = parameters
        ctx.save_for_backward(x)
        leaf = _leaf(x)
        output, circumstances = replay.first_run(
            module, lambda: run(leaf), (x,), x.device, keep_graph=True
        )
        # The loss holds this node, often into the next step; autograd frees what it saved itself.
        ctx.circumstances = circumstances.without(x)
        edge = edge_of(output)
        if edge is not None:
            check_captured(edge.node, module, (leaf, *parameters), _where(module))
        ctx.checksum = checksum(output)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (gradient,) = gradients
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        module: nn.Module = ctx.module
        run: Callable[[Tensor], Tensor] = ctx.run
        refuse_double_backward(_where(module))
        (x,) = ctx.saved_tensors
        replay.check_unchanged(ctx.circumstances, _where(module))
        leaf = _leaf(x)
        output = replay.second_run(ctx.circumstances, lambda: run(leaf), x.device)
        if not is_simulated() and not torch.equal(checksum(output), ctx.checksum):
            raise ReversibilityError(
                f"{_where(module)}: its output is not that of the forward pass, so the gradients "
                "would be wrong: " + replay.NOT_THE_SAME_TWICE,
                code="not_deterministic",
            )
        inputs = (leaf, *ctx.parameters) if x.requires_grad else ctx.parameters
        evaluation = Evaluation(
            _where(module), None, edge_of(output), inputs, x.requires_grad, None, None
        )
        del output  # its graph frees it as soon as it can
        inner = pull_back(evaluation, gradient)
        grad_x = inner.pop(0) if x.requires_grad else None
        return None, None, grad_x, *inner


def _recomputes_itself(module: Recomputed) -> bool:
    return any(isinstance(inner, MomentumStack | Recomputed) for inner in _inside(module))


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    modules = module.modules()
    next(modules)
    return modules


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _where(module: nn.Module) -> str:
    if isinstance(module, MomentumStack):
        return f"{module.name}, recomputed as a whole"
    return "recomputed " + ", ".join(type(inner).__qualname__ for inner in module.children())
