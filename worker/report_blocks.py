"""The report's table of parts: what became of each, why, and what it held before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from momentum_core.comparison.methods import MOMENTUM, ORIGINAL
from momentum_core.conversion import ConversionPlan
from momentum_core.memory import StepMeasurement

_KEPT = "it changes the shape or is no residual block"


def blocks_json(
    plan: ConversionPlan, measured: Mapping[str, StepMeasurement]
) -> list[dict[str, Any]]:
    """Return a row for each run, with its blocks, and for each other part, in the plan's order.

    Bytes are those held between the passes in the measured step; none where nothing was measured.
    """
    planned = {part.name: part for part in plan.memory.parts} if plan.memory else {}
    stays = {one.name: one.reason for one in plan.unconverted}
    rows: list[dict[str, Any]] = []
    for run in plan.runs:
        part = planned.get(run.name)
        rows.append(
            {
                "name": run.name,
                "modules": list(run.blocks),
                "converted": True,
                "gamma": str(run.gamma),
                "num_elements": run.num_elements,
                "strategy": plan.strategy_of(run),
                "reason": part.reason if part else "its last state is rewound",
                "held_bytes": _held(run.blocks, measured),
                "blocks": [
                    {"name": name, "held_bytes": _held((name,), measured).get(ORIGINAL)}
                    for name in run.blocks
                ],
            }
        )
    recomputed = {chain[0] for chain in plan.recomputed}
    for chain in plan.segments:
        part = planned.get(chain[0])
        default = "recompute" if chain[0] in recomputed else "store"
        rows.append(_other(chain, stays, part.strategy if part else default, part, measured))
    listed = {name for chain in plan.segments for name in chain}
    for name in stays:
        if name not in listed:
            rows.append(_other((name,), stays, "store", None, measured))
    order = list(planned)
    return sorted(
        rows, key=lambda row: order.index(row["name"]) if row["name"] in planned else len(order)
    )


def _other(
    names: tuple[str, ...],
    stays: Mapping[str, str],
    strategy: str,
    part: Any,
    measured: Mapping[str, StepMeasurement],
) -> dict[str, Any]:
    why = stays.get(names[0], _KEPT)
    return {
        "name": names[0],
        "modules": list(names),
        "converted": False,
        "gamma": None,
        "num_elements": None,
        "strategy": strategy,
        "reason": f"not converted: {why}" + (f"; {part.reason}" if part else ""),
        "held_bytes": _held(names, measured),
        "blocks": [],
    }


def _held(names: Iterable[str], measured: Mapping[str, StepMeasurement]) -> dict[str, int]:
    names = tuple(names)
    keys = (*names, f"{names[0]}:run")
    return {
        method: sum(sum(measured[method].held_by_part.get(key, {}).values()) for key in keys)
        for method in (ORIGINAL, MOMENTUM)
        if method in measured
    }
