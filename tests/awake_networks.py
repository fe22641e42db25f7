"""Networks with random weights in which every residual function matters, and what conversion does.

As they are made, many networks are asleep: their heads and last norms are zero and their layer
scales tiny, so that a conversion that broke every block would change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core import ConversionConfig, convert
from momentum_core.conversion import ConversionPlan


def wake(model: nn.Module, example: Any) -> nn.Module:
    """Give a model other weights where it has zeros or tiny scales, and its norms statistics.

    Biases are woken, too: without, some deep networks with random weights are so ill-conditioned
    that they say nothing of a conversion (noise of 1/1024 on its weights changes the output of
    EfficientNetV2-L by 8 %).
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_zero = not parameter.any()
            if any(word in name for word in ("scale", "gamma", "lambda")) or (
                is_zero and parameter.dim() == 1
            ):
                parameter.copy_(0.3 + 0.1 * torch.rand(parameter.shape, generator=generator))
            elif is_zero:
                std = parameter[0].numel() ** -0.5
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    _estimate_statistics(model, example, generator)
    return model.eval()


def first_output(model: nn.Module, example: Any) -> Tensor:
    """Return the first tensor of the model's output."""
    output = model(**example) if isinstance(example, dict) else model(example)
    return next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))


@torch.no_grad()
def differences(
    model: nn.Module, plan: ConversionPlan, example: Any, gammas: Sequence[float]
) -> list[float]:
    """Return how far the converted model's output is from the original's, relatively, by gamma."""
    original = first_output(model, example)
    found = []
    for gamma in gammas:
        config = ConversionConfig(gamma=gamma)
        converted = convert(model, plan=plan.with_config(config))
        found.append(float((first_output(converted, example) - original).norm() / original.norm()))
    return found


def _estimate_statistics(model: nn.Module, example: Any, generator: torch.Generator) -> None:
    """Give batch norms statistics of what they see: with others, activations die out."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    if norms:
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            model.train()(torch.randn(16, *example.shape[1:], generator=generator))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
