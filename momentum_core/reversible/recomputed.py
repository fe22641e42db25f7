"""`Recomputed`: a module that keeps its input instead of its activations, and replays exactly."""

from __future__ import annotations

from collections.abc import Iterator
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
        parameters = tuple(p for p in self.parameters() if p.requires_grad)
        is_recorded = torch.is_grad_enabled() and (input.requires_grad or bool(parameters))
        if not is_recorded or is_exporting():
            return self.run(input)
        if not _recomputes_itself(self):
            check_not_sharded(self, _where(self))
            with suppress(GraphNeeded):
                return run_refillable(self, self.run, input, _where(self))
        output: Tensor = _Recompute.apply(self, input, *parameters)
        return output

    def run(self, x: Tensor) -> Tensor:
        """Run the modules in the ordinary way."""
        for module in self:
            x = module(x)
        return x


class _Recompute(torch.autograd.Function):
    """For modules that hold runs or recompute parts: their graph would keep what those keep."""

    @staticmethod
    def forward(ctx: Any, module: Recomputed, x: Tensor, *parameters: Tensor) -> Tensor:
        check_not_sharded(module, _where(module))
        ctx.set_materialize_grads(False)
        ctx.module = module
        ctx.parameters = parameters
        ctx.save_for_backward(x)
        leaf = _leaf(x)
        output, circumstances = replay.first_run(
            module, lambda: module.run(leaf), (x,), x.device, keep_graph=True
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
        module: Recomputed = ctx.module
        refuse_double_backward(_where(module))
        (x,) = ctx.saved_tensors
        replay.check_unchanged(ctx.circumstances, _where(module))
        leaf = _leaf(x)
        output = replay.second_run(ctx.circumstances, lambda: module.run(leaf), x.device)
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
        return None, grad_x, *inner


def _recomputes_itself(module: Recomputed) -> bool:
    return any(isinstance(inner, MomentumStack | Recomputed) for inner in _inside(module))


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    modules = module.modules()
    next(modules)
    return modules


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _where(module: Recomputed) -> str:
    return "recomputed " + ", ".join(type(inner).__qualname__ for inner in module)
