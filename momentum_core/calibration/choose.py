"""Chooses a gamma for each run, the largest that keep the answers within a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from momentum_core.calibration.bench import LEADS, Bench, RunFit
from momentum_core.calibration.fidelity import Fidelity

LADDER = tuple(Fraction(n, d) for n, d in ((1, 8), (1, 4), (1, 2), (3, 4), (7, 8), (15, 16)))
"""What a run may get. Its store costs log2(1/gamma) bits per element and block: 3, 2, 1, 0.42, 0.19
and 0.09."""

MAX_TRIALS = 16
"""Fits before the choice; what is not tried by then stays as it is."""

MAX_FULL_FITS = 4
"""With all optimizer steps."""


@dataclass(frozen=True, slots=True)
class GammaTrial:
    """One point of the curve that was seen."""

    gammas: tuple[Fraction, ...]
    """Of each run."""

    num_steps: int
    """Optimizer steps; 0 where only the least squares were solved."""

    before: Fidelity
    """On the held-back batches, without calibration."""

    fidelity: Fidelity
    """Likewise, after this calibration."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The gammas that were chosen, calibrated."""

    fit: RunFit
    expected_change: float
    """Share of top-1 predictions that change, estimated; see `expected_change`."""

    tolerance_met: bool
    trials: tuple[GammaTrial, ...]


def expected_change(distance: float, trials: Sequence[GammaTrial]) -> float:
    """Return the share of top-1 predictions that change at this distance, 0 to 1.

        distance * (1 + changed predictions in all trials) / (distances in all trials)

    Among some hundred images a share of 0.3 % cannot be counted. Both numbers are proportional to
    how far the logits move, while that is little, so their ratio is taken from everything tried;
    the 1 keeps it on the safe side.

    Args:
        distance: mean total variation distance.
        trials: at least one.
    """
    seen = [one for trial in trials for one in (trial.before, trial.fidelity)]
    changed = sum((1 - one.agreement) * one.num_answers for one in seen)
    moved = sum(one.distance * one.num_answers for one in seen)
    return distance * min(1.0, (1 + changed) / max(moved, 1e-9))


def choose_gammas(bench: Bench, *, tolerance: float) -> Choice:
    """Choose from `LADDER`, calibrate, and check.

    A full calibration at 1/2 tells by how much its distance lies below that of the least squares
    alone; trials are then judged by the least squares, times that ratio. Bisection finds the
    largest gamma for all runs together; then each run, the one that holds most first, climbs alone
    as far as it can. The choice is calibrated in full. Where it misses the tolerance, every run
    goes down a rung.

    Args:
        bench: original, plan and batches.
        tolerance: largest expected change.
    """
    trials: list[GammaTrial] = []
    num_runs = len(bench.plan.runs)

    def fit(rungs: Sequence[int], leads: Sequence[float], max_steps: int) -> RunFit:
        gammas = tuple(LADDER[rung] for rung in rungs)
        found = bench.fit(gammas, leads=leads, max_steps=max_steps)
        trials.append(GammaTrial(gammas, found.num_steps, found.before, found.after))
        return found

    def quick(rungs: Sequence[int]) -> RunFit:
        return fit(rungs, LEADS[:1], 0)

    def full(rungs: Sequence[int]) -> tuple[RunFit, float]:
        found = fit(rungs, LEADS, bench.config.max_steps)
        return found, expected_change(found.after.distance, trials)

    middle = [LADDER.index(Fraction(1, 2))] * num_runs
    distance = full(middle)[0].after.distance
    ratio = min(1.0, distance / max(quick(middle).after.distance, 1e-9))

    def fits(rungs: Sequence[int]) -> bool:
        if len(trials) >= MAX_TRIALS:
            return False
        distance = ratio * quick(rungs).after.distance
        return expected_change(distance, trials) <= tolerance

    rungs = _climb_alone(bench, _climb_together(fits, num_runs), fits)
    found, change = full(rungs)
    while change > tolerance and any(rungs):
        # Twice a rung at most, then to the bottom: this ends.
        is_last = sum(trial.num_steps > 0 for trial in trials) >= MAX_FULL_FITS - 1
        rungs = [0 if is_last else max(0, rung - 1) for rung in rungs]
        found, change = full(rungs)
    return Choice(found, change, change <= tolerance, tuple(trials))


def _climb_together(fits: Callable[[Sequence[int]], bool], num_runs: int) -> list[int]:
    """Return the highest rung that fits for all runs at once, by bisection; 0 is not tried."""
    low, high = 0, len(LADDER)
    while high - low > 1:
        middle = (low + high) // 2
        if fits([middle] * num_runs):
            low = middle
        else:
            high = middle
    return [low] * num_runs


def _climb_alone(
    bench: Bench, rungs: list[int], fits: Callable[[Sequence[int]], bool]
) -> list[int]:
    """Raise each run as far as it can go, the one with the largest store first."""
    runs = bench.plan.runs
    order = sorted(range(len(runs)), key=lambda i: -runs[i].num_elements * len(runs[i].blocks))
    for number in order:
        while rungs[number] + 1 < len(LADDER):
            higher = [rung + (i == number) for i, rung in enumerate(rungs)]
            if not fits(higher):
                break
            rungs = higher
    return rungs
