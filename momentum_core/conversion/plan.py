"""The decision what to convert, as a value that can be read, printed and stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, Self

from torch import nn

from momentum_core.config import DEFAULT_TOLERANCE, ConversionConfig, Scheme, Strategy
from momentum_core.conversion.memory_plan import MemoryPlan
from momentum_core.conversion.rule import RunRule
from momentum_core.conversion.runs import Chain, FoundRuns, find_runs
from momentum_core.conversion.segments import find_segments
from momentum_core.conversion.stand_ins import CallPattern
from momentum_core.conversion.trace import ExampleInput, ModuleCall, Trace, trace
from momentum_core.errors import ConversionError
from momentum_core.reversible import MomentumStack


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """Consecutive blocks that become one momentum stack."""

    blocks: tuple[str, ...]
    """Dotted names in the model, in the order of their calls."""

    rule: RunRule
    """Gamma, and what each block is multiplied by."""

    shape: tuple[int, ...]
    """Of the blocks' input in the example, the batch included."""

    pattern: CallPattern
    """How the blocks are called."""

    entered: int = 0
    """When the first block was called, in the example's forward pass."""

    takes_input_only: bool = True
    """Whether the blocks take one tensor and nothing else."""

    @property
    def name(self) -> str:
        """Where the stack stands in the converted model: at its first block."""
        return self.blocks[0]

    @property
    def gamma(self) -> Fraction:
        """The momentum term of this run."""
        return self.rule.gamma

    @property
    def num_elements(self) -> int:
        """Numbers in the blocks' input, for one example of the batch."""
        return math.prod(self.shape[1:])

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "blocks": list(self.blocks),
            "shape": list(self.shape),
            "num_elements": self.num_elements,
            "call": self.pattern.to_json(),
            "entered": self.entered,
            "takes_input_only": self.takes_input_only,
        } | self.rule.to_json()


@dataclass(frozen=True, slots=True)
class Unconverted:
    """A residual block that stays as it is."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What becomes of every part of a model."""

    gamma_requested: float | Literal["auto"]
    """What was asked for; each run has the fraction that is used."""

    scheme: Scheme
    runs: tuple[PlannedRun, ...]
    unconverted: tuple[Unconverted, ...]
    recomputed: tuple[tuple[str, ...], ...]
    """Chains of modules whose activations are computed a second time in the backward pass."""

    segments: tuple[tuple[str, ...], ...] = ()
    """All chains that could be recomputed, those that are stored instead included."""

    notes: tuple[str, ...] = ()
    """What the reader should know besides."""

    tolerance: float = DEFAULT_TOLERANCE
    """Where `calibrate` is to choose gamma: the share of predictions that may change."""

    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    """What parts keep for the backward pass, by name; a run that is not named is reversed."""

    memory: MemoryPlan | None = None
    """Why, and what a training step is predicted to hold; None if that was not asked for."""

    def strategy_of(self, run: PlannedRun) -> Strategy:
        """Return what a run keeps for the backward pass."""
        return self.strategies.get(run.name, "reverse")

    def with_config(self, config: ConversionConfig) -> Self:
        """Return the same plan with another gamma and scheme, the same in every run."""
        plan = replace(
            self,
            gamma_requested=config.gamma,
            scheme=config.scheme,
            tolerance=config.tolerance,
        )
        return plan.with_rules(plan.scheme_rule(run, config.start_gamma) for run in self.runs)

    def with_rules(self, rules: Iterable[RunRule]) -> Self:
        """Return the same plan with other rules, one for each run.

        Raises:
            ConversionError: they do not fit the runs.
        """
        rules = tuple(rules)
        expected = [len(run.blocks) for run in self.runs]
        given = [len(rule.coefficients) for rule in rules]
        if given != expected:
            raise ConversionError(
                f"the rules are for runs of {given} blocks, the plan has runs of {expected}; "
                "give the rules of a plan for the same architecture",
                code="architecture_mismatch",
            )
        runs = zip(self.runs, rules, strict=True)
        return replace(self, runs=tuple(replace(run, rule=rule) for run, rule in runs))

    def scheme_rule(self, run: PlannedRun, gamma: Fraction | None = None) -> RunRule:
        """Return the rule of a run, or of the same with another gamma, without calibration."""
        return RunRule.of_scheme(self.scheme, gamma or run.gamma, len(run.blocks))

    def is_calibrated(self, run: PlannedRun) -> bool:
        """Whether a run's rule is another than its scheme gives."""
        return run.rule != self.scheme_rule(run)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, of which `plan_from_json` makes it again.

        Raises:
            ConversionError: `not_storable`, when a block returns an object of a class.
        """
        return {
            "gamma_requested": self.gamma_requested,
            "scheme": self.scheme,
            "tolerance": self.tolerance,
            "runs": [
                run.to_json()
                | {"calibrated": self.is_calibrated(run), "strategy": self.strategy_of(run)}
                for run in self.runs
            ],
            "not_converted": [{"name": one.name, "reason": one.reason} for one in self.unconverted],
            "recomputed": [list(chain) for chain in self.recomputed],
            "segments": [list(chain) for chain in self.segments],
            "strategies": dict(self.strategies),
            "notes": list(self.notes),
            "memory": self.memory and self.memory.to_json(),
        }

    def __str__(self) -> str:
        lines = [f"scheme {self.scheme}"]
        lines += [
            f"  run {run.blocks[0]} .. {run.blocks[-1]}: {len(run.blocks)} blocks of "
            f"{'x'.join(map(str, run.shape[1:]))}, gamma {run.gamma}"
            f"{', calibrated' if self.is_calibrated(run) else ''}"
            for run in self.runs
        ]
        lines += [f"  {one.name} stays: {one.reason}" for one in self.unconverted]
        lines += [f"  recomputed: {', '.join(chain)}" for chain in self.recomputed]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {line}" for line in (self.memory.lines() if self.memory else ())]
        return "\n".join(lines)


def plan_conversion(
    model: nn.Module, example_input: ExampleInput, config: ConversionConfig | None = None
) -> ConversionPlan:
    """Decide which blocks of `model` become momentum stacks; change nothing.

    The model is run once in evaluation mode and once in training mode. Runs are found from what
    happens then, not from names: a run is a chain of modules that each add something to their
    input, keep its shape, and hand their output to the next and to nobody else.

    Args:
        model: a residual network.
        example_input: what its forward takes: a tensor, a tuple of positional arguments, or a
            mapping of keyword arguments; two examples are better than one.
        config: gamma and scheme.

    Raises:
        ConversionError: `not_traceable`, when the model does not take the input; `not_convertible`,
            when there is no run.
    """
    config = config or ConversionConfig()
    if any(isinstance(module, MomentumStack) for module in model.modules()):
        raise ConversionError(
            "the model holds momentum stacks already; convert the original model",
            code="already_converted",
        )
    evaluated = trace(model, example_input)
    trained, notes = _training_pass(model, example_input)
    found = find_runs(evaluated, trained)
    if not found.runs:
        raise _nothing_found(model, found)
    gamma = config.start_gamma
    segments = find_segments(evaluated, trained, found.runs)
    names = tuple(tuple(call.name for call in chain) for chain in segments)
    plan = ConversionPlan(
        gamma_requested=config.gamma,
        scheme=config.scheme,
        runs=tuple(_planned(chain, gamma, config.scheme) for chain in found.runs),
        unconverted=tuple(Unconverted(call.name, reason) for call, reason in found.left_out),
        recomputed=names,
        segments=names,
        notes=notes,
        tolerance=config.tolerance,
    )
    # Imported here: to predict what a plan costs, the planner carries it out.
    from momentum_core.conversion.planner import plan_memory, with_strategies

    if not config.plan_memory:
        return with_strategies(plan, config.strategies)
    return plan_memory(plan, model, example_input, found.runs, segments, config)


def plan_of(converted: nn.Module) -> ConversionPlan:
    """Return the plan that a converted model was made by.

    Raises:
        ConversionError: the model was not converted.
    """
    plan = vars(converted).get("plan")
    if not isinstance(plan, ConversionPlan):
        raise ConversionError(
            f"{type(converted).__qualname__} is not a converted model; "
            "make one with convert(model, example_input)",
            code="not_converted",
        )
    return plan


def _training_pass(
    model: nn.Module, example_input: ExampleInput
) -> tuple[Trace | None, tuple[str, ...]]:
    try:
        return trace(model, example_input, training=True), ()
    except ConversionError as error:
        note = f"its training mode could not be tried on the example input: {error}"
        return None, (note,)


def _planned(chain: Chain, gamma: Fraction, scheme: Scheme) -> PlannedRun:
    first = chain[0]
    assert first.residual is not None
    assert first.residual.place is not None
    assert first.output_shape is not None
    return PlannedRun(
        blocks=tuple(call.name for call in chain),
        rule=RunRule.of_scheme(scheme, gamma, len(chain)),
        shape=first.output_shape,
        pattern=CallPattern.of(first, first.residual.place),
        entered=first.entered,
        takes_input_only=len(first.arguments) == 1 and first.returns_tensor,
    )


def _nothing_found(model: nn.Module, found: FoundRuns) -> ConversionError:
    kind = type(model).__qualname__
    if not found.left_out:
        return ConversionError(
            f"{kind} has no residual block: no module adds something to its own input; only "
            "residual networks can be converted"
        )
    blocks = "; ".join(_line(call, reason) for call, reason in found.left_out[:5])
    more = f" and {len(found.left_out) - 5} more" if len(found.left_out) > 5 else ""
    return ConversionError(
        f"{kind} has no two residual blocks in sequence that can be converted: {blocks}{more}"
    )


def _line(call: ModuleCall, reason: str) -> str:
    return f"{call.name}: {reason}"
