"""What calibration works with: original, student, batches, and one fit of given gammas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.calibration.channels import channel_dim_of
from momentum_core.calibration.fidelity import Fidelity, measure_fidelity
from momentum_core.calibration.joint import fit_jointly
from momentum_core.calibration.numbers import RunNumbers, rule_of
from momentum_core.calibration.stepwise import fit_stepwise
from momentum_core.calibration.student import Student, own_call
from momentum_core.calibration.watch import call_of, logits_of
from momentum_core.config import CalibrationConfig, RuleForm
from momentum_core.conversion import ConversionPlan, ExampleInput, RunRule
from momentum_core.errors import ConversionError, DataError

LEADS = (0.5, 1.0)
"""Tried in the least squares; the first is nearly always the better one."""

NUM_STEPWISE_IMAGES = 256
"""Three numbers per channel need no more, and all of them are held in memory at once."""


@dataclass(frozen=True, slots=True)
class RunFit:
    """Rules for some gammas, fitted or not."""

    rules: tuple[RunRule, ...]
    before: Fidelity
    """Of the scheme's rules, on the held-back batches."""

    after: Fidelity
    """Of `rules`, likewise."""

    kept: bool
    """Whether the fit helped; otherwise `rules` are the scheme's."""

    num_steps: int
    best_step: int


class Bench:
    """An original, the plan of its conversion, and batches to fit and to judge with."""

    def __init__(
        self,
        original: nn.Module,
        plan: ConversionPlan,
        batches: Sequence[ExampleInput],
        config: CalibrationConfig,
    ) -> None:
        """Set everything up.

        Args:
            original: in evaluation mode.
            plan: made for it.
            batches: at least two.
            config: which form, how many steps.

        Raises:
            ConversionError: the plan is of another architecture.
            DataError: there are too few batches, or the original's answers are not finite.
        """
        if len(batches) < 2:
            raise DataError(
                f"calibration needs at least 2 batches, one of them to judge with, got "
                f"{len(batches)}; cut the images into smaller batches"
            )
        self.original, self.plan, self.config = original, plan, config
        blocks = [[_module(original, name) for name in run.blocks] for run in plan.runs]
        self.starts = [of_run[0] for of_run in blocks]
        self.ends = [of_run[-1] for of_run in blocks]
        dims = [channel_dim_of(run, own) for run, own in zip(plan.runs, blocks, strict=True)]
        self.forms: tuple[RuleForm, ...] = tuple(
            "scalar" if dim is None else config.form for dim in dims
        )
        self._dims = [1 if dim is None else dim for dim in dims]
        num_held = max(1, min(len(batches) - 1, round(config.held_back * len(batches))))
        self.fitted, self.held = batches[:-num_held], batches[-num_held:]
        with torch.no_grad():
            self._targets = [logits_of(original, batch) for batch in self.held]
        _check_targets(self._targets)
        self.student = Student(original, plan)

    def fit(self, gammas: Sequence[Fraction], *, leads: Sequence[float], max_steps: int) -> RunFit:
        """Fit the rules of runs with these gammas; judge on the held-back batches."""
        plain = tuple(
            self.plan.scheme_rule(run, gamma)
            for run, gamma in zip(self.plan.runs, gammas, strict=True)
        )
        self.student.follow(plain)
        before = self._measure()
        rules = [
            replace(rule, channel_dim=dim) for rule, dim in zip(plain, self._dims, strict=True)
        ]
        divergence, start = min(
            (self._stepwise(rules, lead) for lead in leads), key=lambda found: found[0]
        )
        columns = [run.columns for run in start]
        num_steps = best_step = 0
        if max_steps and math.isfinite(divergence):
            found = fit_jointly(
                self.student,
                self.original,
                self.ends,
                start,
                rules,
                self.fitted,
                lambda: self._measure().divergence,
                max_steps=max_steps,
                learning_rate=self.config.learning_rate,
                start_divergence=divergence,
            )
            columns, divergence = found.columns, found.divergence
            num_steps, best_step = found.num_steps, found.best_step
        if not divergence < before.divergence:  # not a number is no improvement
            return RunFit(plain, before, before, False, num_steps, best_step)
        fitted = tuple(rule_of(own, rule) for own, rule in zip(columns, rules, strict=True))
        self.student.follow(fitted)
        return RunFit(fitted, before, self._measure(), True, num_steps, best_step)

    def _measure(self) -> Fidelity:
        return measure_fidelity(self.student.model, self.held, self._targets)

    def _stepwise(self, rules: Sequence[RunRule], lead: float) -> tuple[float, list[RunNumbers]]:
        """Fit run after run, each behind the ones fitted before; return KL and numbers."""
        batches = _first(self.fitted, NUM_STEPWISE_IMAGES)
        self.student.follow(rules)
        found = []
        for number, (run, floats) in enumerate(zip(self.plan.runs, self.student.runs, strict=True)):
            calls = [
                (
                    call_of(self.student.model, floats, batch, own_call),
                    call_of(self.original, self.starts[number], batch, run.pattern.take),
                )
                for batch in batches
            ]
            numbers = fit_stepwise(
                list(floats.blocks), rules[number], calls, form=self.forms[number], lead=lead
            )
            floats.follow(rules[number], numbers.columns)
            found.append(numbers)
        divergence = self._measure().divergence
        return (divergence if math.isfinite(divergence) else math.inf), found


def _module(original: nn.Module, name: str) -> nn.Module:
    try:
        return original.get_submodule(name)
    except AttributeError:
        raise ConversionError(
            f"the plan names a block {name!r}, which {type(original).__qualname__} does not have; "
            "give the original model that the plan was made for",
            code="architecture_mismatch",
        ) from None


def _first(batches: Sequence[ExampleInput], num_images: int) -> list[ExampleInput]:
    """Return the first batches, enough to hold so many images."""
    chosen: list[ExampleInput] = []
    count = 0
    for batch in batches:
        if count >= num_images:
            break
        chosen.append(batch)
        leaves = pytree.tree_leaves(batch)
        count += next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    return chosen


def _check_targets(targets: Sequence[Tensor]) -> None:
    if targets[0].dim() < 2:
        raise DataError(
            f"the original's first output has shape {tuple(targets[0].shape)}; calibration needs "
            "logits, their last dimension the classes"
        )
    if not all(bool(target.isfinite().all()) for target in targets):
        raise DataError(
            "the original's logits are not finite for these batches; look at how they were "
            "preprocessed, and at its weights"
        )
