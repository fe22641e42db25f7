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
from momentum_core.calibration.watch import call_of, calls_of, logits_of
from momentum_core.config import CalibrationConfig, RuleForm
from momentum_core.conversion import ConversionPlan, ExampleInput, RunRule
from momentum_core.errors import ConversionError, DataError

LEADS = (0.5, 1.0)
"""Tried in the least squares; the first is nearly always the better one."""

NUM_STEPWISE_IMAGES = 256
"""Three numbers per channel need no more."""

MAX_STEPWISE_ELEMENTS = 2**26
"""In all of these images' positions at one run: they are in memory together, several times over."""


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
        # Asked for once, kept for every fit.
        starts = [
            (of_run[0], run.pattern.take) for of_run, run in zip(blocks, plan.runs, strict=True)
        ]
        num_stepwise = _num_stepwise_batches(self.fitted, plan)
        self._theirs = [calls_of(original, starts, batch) for batch in self.fitted[:num_stepwise]]

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
        self.student.follow(rules)
        found = []
        for number, floats in enumerate(self.student.runs):
            calls = [
                (call_of(self.student.model, floats, batch, own_call), theirs[number])
                for batch, theirs in zip(self.fitted, self._theirs, strict=False)
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


def _num_stepwise_batches(batches: Sequence[ExampleInput], plan: ConversionPlan) -> int:
    """Return how many batches the least squares use, one at least."""
    most = max(run.num_elements for run in plan.runs)
    images = count = 0
    for batch in batches:
        if images >= NUM_STEPWISE_IMAGES or images * most >= MAX_STEPWISE_ELEMENTS:
            break
        leaves = pytree.tree_leaves(batch)
        images += next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        count += 1
    return count


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
