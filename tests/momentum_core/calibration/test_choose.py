"""Gamma `auto`: each run gets the largest gamma with which the answers stay within a tolerance."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest

from momentum_core import ConversionConfig, convert
from momentum_core.calibration import LADDER, Fidelity, calibrate
from momentum_core.calibration.bench import RunFit
from momentum_core.calibration.choose import (
    MAX_FULL_FITS,
    MAX_TRIALS,
    GammaTrial,
    choose_gammas,
    expected_change,
)
from momentum_core.config import CalibrationConfig
from momentum_core.conversion import plan_architecture

CONFIG = CalibrationConfig(max_steps=2)


def _chosen(digits, tolerance: float):
    plan = digits.plan(ConversionConfig(gamma="auto", tolerance=tolerance))
    return calibrate(plan, digits.network, digits.batches[-4:], CONFIG)


def test_until_it_is_chosen_gamma_is_one_half():
    plan = plan_architecture("cifar_resnet20", num_classes=2, config=ConversionConfig(gamma="auto"))
    assert {run.gamma for run in plan.runs} == {Fraction(1, 2)}
    assert plan.gamma_requested == "auto"


def test_a_looser_tolerance_gives_larger_gammas_and_both_are_kept(digits):
    results = [_chosen(digits, tolerance) for tolerance in (0.0002, 0.05)]
    for result, tolerance in zip(results, (0.0002, 0.05), strict=True):
        gammas = [run.gamma for run in result.plan.runs]
        assert set(gammas) <= set(LADDER)
        assert result.tolerance_met == (result.expected_change <= tolerance)
        assert result.trials[-1].gammas == tuple(gammas)
        assert result.trials[-1].fidelity == result.after
        assert result.expected_change == expected_change(result.after.distance, result.trials)
        assert len(result.trials) <= MAX_TRIALS + MAX_FULL_FITS
    assert results[1].tolerance_met
    strict, loose = ([run.gamma for run in result.plan.runs] for result in results)
    assert all(one <= other for one, other in zip(strict, loose, strict=True))
    assert strict != loose
    convert(digits.network, plan=results[0].plan)


def test_a_tolerance_that_nothing_keeps_gives_the_smallest_gamma_and_says_so(digits):
    result = _chosen(digits, 0.0)
    assert result.tolerance_met is False
    assert {run.gamma for run in result.plan.runs} == {Fraction(1, 8)}
    assert "tolerance not met" in str(result)


def test_nothing_is_beyond_a_tolerance_of_everything(digits):
    result = _chosen(digits, 1.0)
    assert {run.gamma for run in result.plan.runs} == {LADDER[-1]}


def test_the_expected_change_follows_what_was_counted():
    """9 + 1 predictions changed over a distance of 10 + 10 images: (1 + 10) / 20."""
    before = Fidelity(num_answers=100, agreement=0.91, divergence=0.0, distance=0.10)
    after = Fidelity(num_answers=100, agreement=0.99, divergence=0.0, distance=0.10)
    trials = [GammaTrial((Fraction(1, 2),), 0, before, after)]
    assert expected_change(0.02, trials) == pytest.approx(0.02 * 11 / 20)


class _Bench:
    """Answers with a distance of its own making: no network."""

    def __init__(self, quick, full) -> None:
        self.config = CalibrationConfig(max_steps=5)
        runs = [SimpleNamespace(num_elements=n, blocks=("a", "b")) for n in (10, 30)]
        self.plan = SimpleNamespace(runs=runs)
        self.quick, self.full = quick, full

    def fit(self, gammas, *, leads, max_steps) -> RunFit:
        distance = (self.full if max_steps else self.quick)([LADDER.index(g) for g in gammas])
        after = Fidelity(num_answers=100, agreement=1 - distance, divergence=0.0, distance=distance)
        return RunFit((), after, after, True, max_steps, 0)


def _rungs(choice) -> list[int]:
    return [LADDER.index(gamma) for gamma in choice.trials[-1].gammas]


def test_the_run_that_holds_most_climbs_first_and_each_as_far_as_it_can():
    def distance(rungs) -> float:
        return 0.01 * (rungs[0] + rungs[1])

    choice = choose_gammas(_Bench(distance, distance), tolerance=0.05)
    assert _rungs(choice) == [2, 3]
    assert choice.tolerance_met
    assert sum(trial.num_steps > 0 for trial in choice.trials) == 2


def test_a_choice_that_proves_too_high_goes_down_and_ends_at_the_bottom():
    def quick(rungs) -> float:
        return 0.01

    one_down = choose_gammas(_Bench(quick, lambda rungs: 0.01 * max(rungs)), tolerance=0.045)
    assert _rungs(one_down) == [4, 4]
    assert one_down.tolerance_met
    never = choose_gammas(_Bench(quick, lambda rungs: 0.09), tolerance=0.02)
    assert _rungs(never) == [0, 0]
    assert not never.tolerance_met
    assert sum(trial.num_steps > 0 for trial in never.trials) <= MAX_FULL_FITS + 1
