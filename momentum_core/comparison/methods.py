"""The ways to train one network that are compared, as models with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from momentum_core.comparison.checkpointing import CheckpointedSegment, checkpointed
from momentum_core.conversion import ConversionPlan, ConvertedRun, PlannedRun, plan_of
from momentum_core.reversible import Recomputed

ORIGINAL = "original"
EACH_BLOCK, SQRT = "checkpoint_each_block", "checkpoint_sqrt"
MOMENTUM = "momentum"
AUTHORS = "momentumnet"
METHODS = (ORIGINAL, EACH_BLOCK, SQRT, MOMENTUM, AUTHORS)

AUTHORS_VERSION = "0.10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A way to train the network."""

    name: str
    """One of `METHODS`."""

    model: nn.Module | None
    """The network; None if there is none."""

    parts: Mapping[str, nn.Module] = field(default_factory=dict)
    """Runs, blocks and other parts, by their names in the original model; a momentum run that is
    one module has the name of its first block and the ending `:run`."""

    reason: str | None = None
    """Why there is no model."""


def methods_of(original: nn.Module, momentum: nn.Module, *, rivals: bool = True) -> list[Method]:
    """Return the methods that are compared, in the order of `METHODS`.

    Args:
        original: the network; checkpointed versions share its parameters.
        momentum: what `convert` made of it.
        rivals: whether others than the two are wanted.

    Raises:
        ConversionError: `momentum` was not converted.
    """
    plan = plan_of(momentum)
    first = Method(name=ORIGINAL, model=original, parts=_parts(original, plan))
    ours = Method(name=MOMENTUM, model=momentum, parts=_parts(momentum, plan))
    if not rivals:
        return [first, ours]
    each, segments = (checkpointed(original, plan, cut) for cut in ("each_block", "sqrt"))
    return [
        first,
        Method(name=EACH_BLOCK, model=each, parts=_parts(each, plan)),
        Method(name=SQRT, model=segments, parts=_parts(segments, plan)),
        ours,
        _authors(original, plan),
    ]


def _parts(model: nn.Module, plan: ConversionPlan) -> dict[str, nn.Module]:
    """Return the modules that stand for the plan's runs, blocks and segments in this model."""
    parts: dict[str, nn.Module] = {}
    names = [name for run in plan.runs for name in run.blocks]
    names += [name for chain in plan.segments for name in chain]
    names += [one.name for one in plan.unconverted]
    starts = {run.name: run for run in plan.runs}
    for name in dict.fromkeys(names):
        module = model.get_submodule(name)
        if isinstance(module, ConvertedRun):
            parts[f"{name}:run"] = module
            parts |= dict(zip(starts[name].blocks, module.original_blocks, strict=True))
        elif isinstance(module, CheckpointedSegment | Recomputed):
            # Held is its input, whichever module inside it took it.
            parts[name] = module
        else:
            parts.setdefault(name, module)
    return parts


def _authors(original: nn.Module, plan: ConversionPlan) -> Method:
    """Return the network as the authors' library converts it, if it is installed and can."""
    try:
        found = version("momentumnet")
    except PackageNotFoundError:
        found = None
    if found != AUTHORS_VERSION:
        given = "it is not installed" if found is None else f"version {found} is installed"
        reason = f"momentumnet {AUTHORS_VERSION} is needed, {given}"
        return Method(name=AUTHORS, model=None, reason=reason)
    from momentumnet import transform_to_momentumnet

    model = original
    for run in plan.runs:
        parent, keeps_first = _sequence(original, run)
        if parent is None:
            reason = f"it cannot take {run.name}: it converts whole sequences of blocks"
            return Method(name=AUTHORS, model=None, reason=reason)
        options: dict[str, Any] = {"keep_first_layer": keeps_first, "gamma": float(run.gamma)}
        model = transform_to_momentumnet(model, sub_layers=[parent], **options)
    return Method(name=AUTHORS, model=model)


def _sequence(model: nn.Module, run: PlannedRun) -> tuple[str | None, bool]:
    """Return the sequence that the run makes up, and whether it leaves the first module out."""
    parent = run.name.rpartition(".")[0]
    sequence = model.get_submodule(parent)
    children = [f"{parent}.{name}" for name, _ in sequence.named_children()]
    if not parent or not isinstance(sequence, nn.Sequential) or not run.pattern.is_plain:
        return None, False
    if list(run.blocks) == children:
        return parent, False
    return (parent, True) if list(run.blocks) == children[1:] else (None, False)
