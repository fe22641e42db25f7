"""`Recomputed`: a module that keeps its input instead of its activations, and replays exactly."""

from __future__ import annotations

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
from momentum_core.reversible.sharding import check_not_sharded
from momentum_core.reversible.switches import is_exporting


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
        output: Tensor = _Recompute.apply(self, input, *parameters)
        return output

    def run(self, x: Tensor) -> Tensor:
        """Run the modules in the ordinary way."""
        for module in self:
            x = module(x)
        return x


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: Recomputed, x: Tensor, *parameters: Tensor) -> Tensor:
        check_not_sharded(module, _where(module))
        ctx.set_materialize_grads(False)
        ctx.module = module
        ctx.parameters = parameters
        ctx.save_for_backward(x)
        leaf = _leaf(x)
        output, ctx.circumstances = replay.first_run(
            module, lambda: module.run(leaf), (x,), x.device
        )
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
        if not torch.equal(checksum(output), ctx.checksum):
            raise ReversibilityError(
                f"{_where(module)}: its output is not that of the forward pass, so the gradients "
                "would be wrong: " + replay.NOT_THE_SAME_TWICE,
                code="not_deterministic",
            )
        inputs = (leaf, *ctx.parameters) if x.requires_grad else ctx.parameters
        evaluation = Evaluation(
            _where(module), output.detach(), edge_of(output), inputs, x.requires_grad, None, None
        )
        inner = pull_back(evaluation, gradient)
        grad_x = inner.pop(0) if x.requires_grad else None
        return None, grad_x, *inner


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _where(module: Recomputed) -> str:
    return "recomputed " + ", ".join(type(inner).__qualname__ for inner in module)
