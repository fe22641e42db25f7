"""Carry a conversion plan out on a copy of a model, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from momentum_core.config import ConversionConfig, Strategy
from momentum_core.conversion.plan import ConversionPlan, PlannedRun, plan_conversion, plan_of
from momentum_core.conversion.stand_ins import CalledBlock, CallPattern, ConvertedRun, PassThrough
from momentum_core.conversion.trace import ExampleInput
from momentum_core.errors import ConversionError
from momentum_core.reversible import Backward, MomentumStack, Recomputed

BACKWARD: Mapping[Strategy, Backward] = {
    "reverse": "reversible",
    "recompute": "recomputed",
    "recompute_whole": "reversible",
    "store": "stored",
}
"""How a run's stack is built for each strategy."""


def convert(
    model: nn.Module,
    example_input: ExampleInput | None = None,
    config: ConversionConfig | None = None,
    *,
    plan: ConversionPlan | None = None,
) -> nn.Module:
    """Return a momentum model with the weights of `model`, which stays as it is.

    The copy has an attribute `plan`. A run's stack stands at the place of its first block; what the
    plan lists as recomputed is computed a second time in the backward pass.

    Args:
        model: a residual network.
        example_input: what its forward takes; see `plan_conversion`.
        config: gamma and scheme.
        plan: what `plan_conversion` decided, for this model or another of its architecture; in
            place of `example_input` and `config`.

    Raises:
        ConversionError: nothing in the model can be converted, or it is converted already.
    """
    if (plan is None) == (example_input is None):
        raise ConversionError(
            "convert takes an example input (what the model's forward takes) or a plan; "
            f"{'neither' if plan is None else 'both'} was given",
            code="missing_example",
        )
    if plan is None:
        assert example_input is not None
        plan = plan_conversion(model, example_input, config)
    return act(model, plan)


def act(model: nn.Module, plan: ConversionPlan) -> nn.Module:
    """Return a momentum model as the plan says, with the weights of `model`."""
    converted = copy.deepcopy(model)
    for run in plan.runs:
        _place_stack(converted, run, plan)
    for chain in plan.recomputed:
        _place_recomputed(converted, chain)
    vars(converted)["plan"] = plan
    return converted


def restore(converted: nn.Module) -> nn.Module:
    """Return the original architecture with the converted model's weights, as a copy.

    Its `state_dict` has exactly the original keys.

    Raises:
        ConversionError: the model was not converted.
    """
    plan = plan_of(converted)
    restored = copy.deepcopy(converted)
    for run in plan.runs:
        stand_in = restored.get_submodule(run.name)
        assert isinstance(stand_in, ConvertedRun)
        for name, block in zip(run.blocks, stand_in.original_blocks, strict=True):
            _replace(restored, name, block.train(stand_in.training))
    for chain in plan.recomputed:
        recomputed = restored.get_submodule(chain[0])
        assert isinstance(recomputed, Recomputed)
        for name, module in zip(chain, list(recomputed), strict=True):
            _replace(restored, name, module)
    del vars(restored)["plan"]
    return restored


def _place_stack(model: nn.Module, run: PlannedRun, plan: ConversionPlan) -> None:
    blocks = [model.get_submodule(name) for name in run.blocks]
    is_plain = run.pattern.is_plain
    # A scheme's own coefficients are not stored with the weights, and stay in double precision.
    c, b, p = run.rule.tensors() if plan.is_calibrated(run) else (None, None, None)
    stack = MomentumStack(
        blocks if is_plain else [CalledBlock(block, run.pattern) for block in blocks],
        gamma=run.gamma,
        backward=BACKWARD[plan.strategy_of(run)],
        scheme=plan.scheme,
        coefficients=c,
        offsets=b,
        predictors=p,
        channel_dim=run.rule.channel_dim,
        name=run.name,
    )
    stand_in = ConvertedRun(
        stack, run.pattern, whole=plan.strategy_of(run) == "recompute_whole"
    ).train(blocks[0].training)
    _replace(model, run.name, stand_in)
    for name, block in zip(run.blocks[1:], blocks[1:], strict=True):
        _replace(model, name, PassThrough(block, run.pattern))


def _place_recomputed(model: nn.Module, chain: tuple[str, ...]) -> None:
    modules = [model.get_submodule(name) for name in chain]
    recomputed = Recomputed(*modules)
    recomputed.train(modules[0].training)
    _replace(model, chain[0], recomputed)
    for name, module in zip(chain[1:], modules[1:], strict=True):
        _replace(model, name, PassThrough(module, CallPattern.plain()))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
