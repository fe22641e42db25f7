"""A converted model's weights under the names that they had before conversion."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from momentum_core.conversion.plan import ConversionPlan, plan_of
from momentum_core.errors import ConversionError


def original_state_dict(converted: nn.Module) -> dict[str, Tensor]:
    """Return the weights with exactly the original model's keys.

    Weights trained in momentum form load into the original architecture again. Like a `state_dict`,
    they carry the version of each module's format: some modules do not load without.

    Raises:
        ConversionError: the model was not converted.
    """
    plan = plan_of(converted)
    prefixes, rules = _prefixes(plan), _rule_keys(plan)
    state = converted.state_dict()
    weights = OrderedDict(
        (_original(key, prefixes), tensor) for key, tensor in state.items() if key not in rules
    )
    vars(weights)["_metadata"] = _original_formats(state, plan, prefixes)
    return weights


def load_original_state_dict(converted: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights with the original model's keys into a converted model.

    Raises:
        ConversionError: the model was not converted, or keys or shapes differ.
    """
    plan = plan_of(converted)
    prefixes, rules = _prefixes(plan), _rule_keys(plan)
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    used, state, given = set(), converted.state_dict(), _formats(weights)
    vars(renamed)["_metadata"] = {
        name: given.get(_module(name, prefixes), formats)
        for name, formats in _formats(state).items()
    }
    for key, tensor in state.items():
        original = _original(key, prefixes)
        if key in rules:
            renamed[key] = tensor
        elif original in weights:
            renamed[key] = weights[original]
            used.add(original)
    surplus = sorted(set(weights) - used)
    if surplus:
        raise ConversionError(
            f"the weights hold {surplus[0]!r}, which the model does not have; load weights of the "
            "architecture that was converted",
            code="architecture_mismatch",
        )
    try:
        converted.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        raise ConversionError(str(error), code="architecture_mismatch") from None


def _formats(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the versions of the modules' formats, by module, that torch hides on a state."""
    formats: dict[str, Any] = getattr(weights, "_metadata", {})
    return formats


def _original_formats(
    state: dict[str, Tensor], plan: ConversionPlan, prefixes: dict[str, str]
) -> dict[str, Any]:
    formats = _formats(state)
    stacks = tuple(f"{run.name}.stack" for run in plan.runs)
    names = {name: _module(name, prefixes) for name in formats}
    stay = {name for name in formats if names[name] == name and not name.startswith(stacks)}
    # Where a stand-in has a block's old name, the format is the block's.
    return {name: formats[name] for name in stay} | {
        names[name]: one for name, one in formats.items() if names[name] != name
    }


def _prefixes(plan: ConversionPlan) -> dict[str, str]:
    """Map the prefixes of keys in the converted model to the original ones."""
    prefixes: dict[str, str] = {}
    for run in plan.runs:
        called = "" if run.pattern.is_plain else "block."
        prefixes |= {
            f"{run.name}.stack.blocks.{i}.{called}": f"{name}." for i, name in enumerate(run.blocks)
        }
    for chain in plan.recomputed:
        prefixes |= {f"{chain[0]}.{i}.": f"{name}." for i, name in enumerate(chain)}
    return prefixes


def _rule_keys(plan: ConversionPlan) -> set[str]:
    """Return the keys of what the plan says, not the weights: c, b and p of calibrated runs."""
    names = ("coefficients", "offsets", "predictors")
    return {f"{run.name}.stack.{name}" for run in plan.runs for name in names}


def _module(name: str, prefixes: dict[str, str]) -> str:
    return _original(f"{name}.", prefixes).removesuffix(".")


def _original(key: str, prefixes: dict[str, str]) -> str:
    parts = key.split(".")
    # The longest prefix that was renamed is the innermost place that was changed.
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length]) + "."
        if prefix in prefixes:
            return prefixes[prefix] + ".".join(parts[length:])
    return key
