"""The layer that gives the classes: found by following a forward pass, and replaced."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.calibration.watch import evaluation_mode, logits_of
from momentum_core.errors import ConversionError

_Layer = nn.Linear | nn.Conv2d


@torch.no_grad()
def find_head(model: nn.Module, example: Tensor) -> str:
    """Return the name of the last layer that is called, a linear one or a 1x1 convolution.

    Args:
        model: a classifier whose output is logits, shape (B, classes).
        example: what its forward takes.

    Raises:
        ConversionError: `not_convertible`, when the last such layer does not give the classes.
    """
    called: list[str] = []
    with ExitStack() as stack, evaluation_mode(model):
        for name, module in model.named_modules():
            if isinstance(module, _Layer):
                stack.callback(module.register_forward_hook(_noting(called, name)).remove)
        logits = logits_of(model, example)
    if called:
        layer = model.get_submodule(called[-1])
        assert isinstance(layer, _Layer)
        if logits.dim() == 2 and _num_outputs(layer) == logits.shape[1]:
            return called[-1]
    raise ConversionError(
        f"the head of {type(model).__qualname__} is not found: its last linear layer or "
        f"convolution does not give its output of shape {tuple(logits.shape)}; only classifiers "
        "that end in such a layer can be fine-tuned"
    )


def with_new_head(model: nn.Module, name: str, num_classes: int, *, seed: int) -> nn.Module:
    """Return a copy of a model with another head, whose weights are small random numbers.

    Args:
        model: it stays as it is.
        name: of the head.
        num_classes: outputs of the new one.
        seed: of its weights, uniform within one over the root of its inputs as in torch.
    """
    changed = copy.deepcopy(model)
    old = changed.get_submodule(name)
    assert isinstance(old, _Layer)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(old.weight[0].numel())
    weight = (torch.rand((num_classes, *old.weight.shape[1:]), generator=generator) * 2 - 1) * bound
    old.weight = nn.Parameter(weight.to(old.weight.device, old.weight.dtype))
    if old.bias is not None:
        old.bias = nn.Parameter(old.bias.new_zeros(num_classes))
    if isinstance(old, nn.Linear):
        old.out_features = num_classes
    else:
        old.out_channels = num_classes
    for module in changed.modules():
        # Some networks remember it, for their own use.
        if isinstance(vars(module).get("num_classes"), int):
            vars(module)["num_classes"] = num_classes
    return changed


def _num_outputs(layer: _Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _noting(called: list[str], name: str) -> Any:
    def hook(*_: Any) -> None:
        called.append(name)

    return hook
