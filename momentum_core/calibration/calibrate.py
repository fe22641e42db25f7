"""Calibration: the rule's numbers are fitted to the original's answers, weights stay the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from momentum_core.calibration.bench import LEADS, Bench
from momentum_core.calibration.choose import GammaTrial, choose_gammas
from momentum_core.calibration.fidelity import Fidelity
from momentum_core.calibration.watch import evaluation_mode
from momentum_core.config import CalibrationConfig, RuleForm
from momentum_core.conversion import ConversionPlan, ExampleInput, plan_of
from momentum_core.errors import ConversionError


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationResult:
    """A plan with fitted rules, and what they were measured to bring."""

    plan: ConversionPlan
    """Give it to `convert`."""

    kept: bool
    """Whether the fit helped on the held-back batches; if not, the plan has the scheme's rules."""

    forms: tuple[RuleForm, ...]
    """What was fitted in each run: numbers per channel need channels that can be told."""

    before: Fidelity
    """Of the scheme's rules with the same gammas, on the held-back batches."""

    after: Fidelity
    """Of the plan's rules, likewise."""

    num_steps: int
    """Optimizer steps taken, after the least squares."""

    best_step: int
    """The step whose numbers were kept; 0 are those of the least squares."""

    seconds: float

    expected_change: float | None = None
    """With gamma `auto`: estimated share of top-1 predictions that change, 0 to 1."""

    tolerance_met: bool | None = None
    """With gamma `auto`: whether the choice keeps the tolerance."""

    trials: tuple[GammaTrial, ...] = ()
    """With gamma `auto`: what was tried, in order."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; the plan's form is that of `ConversionPlan.to_json`."""
        return {
            "plan": self.plan.to_json(),
            "kept": self.kept,
            "forms": list(self.forms),
            "before": asdict(self.before),
            "after": asdict(self.after),
            "num_steps": self.num_steps,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "expected_change": self.expected_change,
            "tolerance_met": self.tolerance_met,
            "trials": [
                {
                    "gammas": [str(gamma) for gamma in trial.gammas],
                    "num_steps": trial.num_steps,
                    "before": asdict(trial.before),
                    "fidelity": asdict(trial.fidelity),
                }
                for trial in self.trials
            ],
        }

    def __str__(self) -> str:
        gammas = _written(run.gamma for run in self.plan.runs)
        outcome = "kept" if self.kept else "dropped: it did not help on the held-back batches"
        lines = [
            f"gamma {gammas}; fit {outcome}; {self.num_steps} steps, {self.seconds:.0f} s",
            f"  agreement {self.before.agreement:.2%} -> {self.after.agreement:.2%}, "
            f"KL {self.before.divergence:.2g} -> {self.after.divergence:.2g} "
            f"({self.after.num_answers} held-back answers)",
        ]
        if self.expected_change is not None:
            outcome = "met" if self.tolerance_met else "not met"
            lines.append(
                f"  expected to change {self.expected_change:.2%} of predictions, tolerance "
                f"{outcome}; tried:"
            )
            lines += [
                f"    {_written(trial.gammas)}: agreement {trial.fidelity.agreement:.2%}, "
                f"distance {trial.fidelity.distance:.2%} ({trial.num_steps} steps)"
                for trial in self.trials
            ]
        return "\n".join(lines)


def calibrate(
    converted: nn.Module | ConversionPlan,
    original: nn.Module,
    batches: Sequence[ExampleInput],
    config: CalibrationConfig | None = None,
) -> CalibrationResult:
    """Fit c, b and p of every run so that the momentum model answers as the original does.

    First block after block by least squares, then all together by at most `config.max_steps` steps
    of Adam; the numbers that are best on held-back batches are kept, or the scheme's own where
    nothing is better. Weights and normalisation statistics are read, never changed; labels are not
    needed. Where the plan was made with gamma `auto`, a gamma is chosen for each run first.

    Args:
        converted: a converted model or its plan; a calibration that it has is replaced.
        original: the model it was made from.
        batches: what the model's forward takes, on its device, such as 8 batches of 128 images. One
            batch is a step; a share of them is held back.
        config: what is fitted, for how many steps.

    Raises:
        ConversionError: `converted` was not converted, `original` was, or they do not belong
            together.
        DataError: fewer than two batches, or answers that are not finite logits.
    """
    config = config or CalibrationConfig()
    plan = converted if isinstance(converted, ConversionPlan) else plan_of(converted)
    if "plan" in vars(original):
        raise ConversionError(
            "the second model is a converted one, too; give the original model, or what restore() "
            "makes of the converted one",
            code="already_converted",
        )
    start = time.monotonic()
    with evaluation_mode(original):
        bench = Bench(original, plan, list(batches), config)
        choice = None
        if plan.gamma_requested == "auto":
            choice = choose_gammas(bench, tolerance=plan.tolerance)
            fit = choice.fit
        else:
            gammas = [run.gamma for run in plan.runs]
            fit = bench.fit(gammas, leads=LEADS, max_steps=config.max_steps)
    return CalibrationResult(
        plan=plan.with_rules(fit.rules),
        kept=fit.kept,
        forms=bench.forms,
        before=fit.before,
        after=fit.after,
        num_steps=fit.num_steps,
        best_step=fit.best_step,
        seconds=time.monotonic() - start,
        expected_change=None if choice is None else choice.expected_change,
        tolerance_met=None if choice is None else choice.tolerance_met,
        trials=() if choice is None else choice.trials,
    )


def _written(gammas: Iterable[Fraction]) -> str:
    return ", ".join(map(str, gammas))
