"""Carry a conversion plan out on a copy of the model."""

from __future__ import annotations

import copy

from torch import nn

from momentum_core.config import ConversionConfig
from momentum_core.conversion.plan import ConversionPlan, PlannedRun, plan_conversion
from momentum_core.errors import ConversionError
from momentum_core.reversible import MomentumStack, Recomputed


def convert(model: nn.Module, config: ConversionConfig | None = None) -> nn.Module:
    """Return a momentum model with the weights of `model`, which stays as it is.

    The copy has an attribute `plan`. A run's stack stands at the place of its first block; stem,
    transitions and single blocks are recomputed in the backward pass.

    Args:
        model: a residual network of a known family.
        config: gamma and scheme.

    Raises:
        ConversionError: nothing in the model can be converted, or it is converted already.
    """
    if any(isinstance(module, MomentumStack) for module in model.modules()):
        raise ConversionError(
            "the model holds momentum stacks already; convert the original model",
            code="already_converted",
        )
    plan = plan_conversion(model, config)
    converted = copy.deepcopy(model)
    for run in plan.runs:
        _place_stack(converted, run, plan)
    for chain in plan.recomputed:
        _place_recomputed(converted, chain)
    vars(converted)["plan"] = plan
    return converted


def _place_stack(model: nn.Module, run: PlannedRun, plan: ConversionPlan) -> None:
    blocks = [model.get_submodule(name) for name in run.blocks]
    stack = MomentumStack(blocks, gamma=plan.gamma, scheme=plan.scheme, name=run.name)
    stack.train(blocks[0].training)
    _replace(model, run.name, stack)
    for name in run.blocks[1:]:
        parent, _, child = name.rpartition(".")
        delattr(model.get_submodule(parent), child)


def _place_recomputed(model: nn.Module, chain: tuple[str, ...]) -> None:
    recomputed = Recomputed(*(model.get_submodule(name) for name in chain))
    recomputed.train(next(iter(recomputed)).training)
    _replace(model, chain[0], recomputed)
    for name in chain[1:]:
        _replace(model, name, nn.Identity())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
