"""Gamma `auto`: each run gets the largest gamma with which the answers stay within a tolerance."""

from __future__ import annotations

from fractions import Fraction

import pytest

from momentum_core import ConversionConfig, convert
from momentum_core.calibration import LADDER, Fidelity, calibrate
from momentum_core.calibration.choose import MAX_FULL_FITS, MAX_TRIALS, GammaTrial, expected_change
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
