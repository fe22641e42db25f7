"""From the JSON values of a plan, as `ConversionPlan.to_json` makes them, back to the plan."""

from __future__ import annotations

from typing import Any, get_args

from momentum_core.config import Scheme, Strategy
from momentum_core.conversion.memory_plan import MemoryPlan, PlannedPart
from momentum_core.conversion.plan import ConversionPlan, PlannedRun, Unconverted
from momentum_core.conversion.rule import RunRule
from momentum_core.conversion.stand_ins import CallPattern


def plan_from_json(values: dict[str, Any]) -> ConversionPlan:
    """Return the plan, equal to the one whose `to_json` gave the values.

    Raises:
        ConfigError: a number of a rule is not allowed.
        KeyError, TypeError, ValueError: the values are not a plan.
    """
    memory = values["memory"]
    return ConversionPlan(
        gamma_requested=values["gamma_requested"],
        scheme=_one_of(get_args(Scheme), values["scheme"]),
        runs=tuple(_run(one) for one in values["runs"]),
        unconverted=tuple(Unconverted(**one) for one in values["not_converted"]),
        recomputed=tuple(_names(chain) for chain in values["recomputed"]),
        segments=tuple(_names(chain) for chain in values["segments"]),
        notes=_names(values["notes"]),
        tolerance=values["tolerance"],
        strategies=_strategies(values["strategies"]),
        memory=None if memory is None else _memory(memory),
    )


def _run(values: dict[str, Any]) -> PlannedRun:
    run = PlannedRun(
        blocks=_names(values["blocks"]),
        rule=RunRule.from_json(values),
        shape=tuple(int(size) for size in values["shape"]),
        pattern=CallPattern.from_json(values["call"]),
        entered=int(values["entered"]),
        takes_input_only=bool(values["takes_input_only"]),
    )
    if not run.blocks or len(run.blocks) != len(run.rule.coefficients):
        raise ValueError(
            f"a run of {len(run.blocks)} blocks has {len(run.rule.coefficients)} coefficients"
        )
    return run


def _memory(values: dict[str, Any]) -> MemoryPlan:
    return MemoryPlan(
        batch_size=values["batch_size"],
        parts=tuple(PlannedPart(**one) for one in values["parts"]),
        slowdown=values["slowdown"],
        original_peak_bytes=values["original_peak_bytes"],
        converted_peak_bytes=values["converted_peak_bytes"],
    )


def _strategies(values: dict[str, Any]) -> dict[str, Strategy]:
    return {name: _one_of(get_args(Strategy), one) for name, one in values.items()}


def _names(values: list[Any]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"a list of words was expected, got {str(values)[:80]}")
    return tuple(values)


def _one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
