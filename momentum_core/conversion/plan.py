"""The decision what to convert, as a value that can be read, printed and stored."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any

from torch import nn

from momentum_core.config import ConversionConfig, Scheme
from momentum_core.conversion.blocks import is_block, keeps_shape, stem_of
from momentum_core.errors import ConversionError
from momentum_core.reversible import round_gamma, scheme_coefficients


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """Consecutive blocks that become one momentum stack."""

    blocks: tuple[str, ...]
    """Dotted names in the model, in the order of their calls."""

    coefficients: tuple[float, ...]
    """c of each block."""

    @property
    def name(self) -> str:
        """Where the stack stands in the converted model: at its first block."""
        return self.blocks[0]


@dataclass(frozen=True, slots=True)
class Unconverted:
    """A residual block that stays as it is."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What becomes of every part of a model."""

    gamma_requested: float
    gamma: Fraction
    """The momentum term that is used, the nearest fraction that integers can work with."""

    scheme: Scheme
    runs: tuple[PlannedRun, ...]
    unconverted: tuple[Unconverted, ...]
    recomputed: tuple[tuple[str, ...], ...]
    """Chains of modules whose activations are computed a second time in the backward pass."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "gamma": {
                "requested": self.gamma_requested,
                "numerator": self.gamma.numerator,
                "denominator": self.gamma.denominator,
            },
            "scheme": self.scheme,
            "runs": [
                {"blocks": list(run.blocks), "coefficients": list(run.coefficients)}
                for run in self.runs
            ],
            "not_converted": [{"name": one.name, "reason": one.reason} for one in self.unconverted],
            "recomputed": [list(chain) for chain in self.recomputed],
        }

    def __str__(self) -> str:
        lines = [f"gamma {self.gamma}, scheme {self.scheme}"]
        lines += [
            f"  run {run.blocks[0]} .. {run.blocks[-1]}: {len(run.blocks)} blocks"
            for run in self.runs
        ]
        lines += [f"  {one.name} stays: {one.reason}" for one in self.unconverted]
        lines += [f"  recomputed: {', '.join(chain)}" for chain in self.recomputed]
        return "\n".join(lines)


def plan_conversion(model: nn.Module, config: ConversionConfig | None = None) -> ConversionPlan:
    """Decide which blocks of `model` become momentum stacks; change nothing.

    A run is a chain of residual blocks whose shortcut is the identity, one after the other in one
    `nn.Sequential`. A chain of one stays: reversing it would cost more memory than its input.

    Args:
        model: a residual network of a known family (torchvision's ResNets, `SmallResNet`).
        config: gamma and scheme.

    Raises:
        ConversionError: there is no run.
    """
    config = config or ConversionConfig()
    gamma = round_gamma(config.gamma)
    runs: list[PlannedRun] = []
    unconverted: list[Unconverted] = []
    for stage_name, stage in model.named_modules():
        if not isinstance(stage, nn.Sequential):
            continue
        children = [
            (f"{stage_name}.{name}".lstrip("."), child) for name, child in stage.named_children()
        ]
        blocks = [(name, child) for name, child in children if is_block(child)]
        for kept, group in groupby(blocks, key=lambda item: keeps_shape(item[1])):
            names = tuple(name for name, _ in group)
            if kept and len(names) > 1:
                runs.append(
                    PlannedRun(names, scheme_coefficients(config.scheme, gamma, len(names)))
                )
            else:
                reason = (
                    "a run of one block saves nothing"
                    if kept
                    else "its output has another shape than its input"
                )
                unconverted += [Unconverted(name, reason) for name in names]
    if not runs:
        raise ConversionError(
            f"{type(model).__qualname__} has no two residual blocks of one shape in sequence; what "
            "can be converted are torchvision's ResNet families and the CIFAR ResNets of "
            "momentum_core.architectures"
        )
    stem = stem_of(model)
    chains = ((stem,) if stem else ()) + tuple((one.name,) for one in unconverted)
    return ConversionPlan(
        config.gamma, gamma, config.scheme, tuple(runs), tuple(unconverted), chains
    )


def plan_of(converted: nn.Module) -> ConversionPlan:
    """Return the plan that a converted model was made by.

    Raises:
        ConversionError: the model was not converted.
    """
    plan = vars(converted).get("plan")
    if not isinstance(plan, ConversionPlan):
        raise ConversionError(
            f"{type(converted).__qualname__} is not a converted model; "
            "make one with convert(model)",
            code="not_converted",
        )
    return plan
