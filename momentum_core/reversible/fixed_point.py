"""The integers that stand for position and velocity: width, scale, range and expected noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from momentum_core.errors import ConfigError, ReversibilityError
from momentum_core.reversible.store_plan import StorePlan

TOLERANCE = {32: 1e-3, 16: 3e-2}
"""Largest accepted noise of a run's output, by state width, in units of the activation."""

_PREFERRED_SCALE_BITS = {32: 18, 16: 9}
_MAX_SCALE_BITS = {32: 26, 16: 13}
_AIM = {32: 3e-5, 16: 1e-2}
"""Noise that guard bits are added for: gradients of 40 blocks agree with exact ones to 1e-3."""

_ENOUGH = {32: 4e-4, 16: 1e-2}
"""Noise that range is given up for."""

_LIMIT = {32: 2**29, 16: 2**15 - 1}
_VELOCITY_LIMIT = {32: 2**30, 16: 2**15 - 1}
_MAX_GUARD_BITS = {32: 4, 16: 2}


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A real value a is held as the integer round(a * 2^scale_bits)."""

    state_bits: int
    """Width of the integers: 32 or 16."""

    scale_bits: int
    """Binary places of a position after the point."""

    guard_bits: int = 0
    """Further binary places of a velocity: its rounding is carried through many blocks."""

    @property
    def dtype(self) -> torch.dtype:
        """Integer type of the state."""
        return torch.int32 if self.state_bits == 32 else torch.int16

    @property
    def limit(self) -> int:
        """Largest magnitude of a position or an increment, in units of the state.

        With positions and increments within 2^29 and velocities within 2^30, every sum of the rule
        stays inside int32 before it is checked. 16-bit states are added in 32 bits.
        """
        return _LIMIT[self.state_bits]

    @property
    def velocity_limit(self) -> int:
        """Largest magnitude of a velocity, in its own units."""
        return _VELOCITY_LIMIT[self.state_bits]

    @property
    def largest(self) -> float:
        """Largest magnitude of an activation that fits."""
        return self.limit / self.scale

    @property
    def scale(self) -> float:
        """Units of a position per unit of the activation: 2^scale_bits."""
        return 2.0**self.scale_bits

    @property
    def velocity_scale(self) -> float:
        """Units of a velocity per unit of the activation."""
        return 2.0 ** (self.scale_bits + self.guard_bits)

    def decode(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the activations that integer `positions` stand for, as a new tensor of `dtype`."""
        return _divide(positions, self.scale, dtype)

    def decode_velocity(self, velocities: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the velocities that integers stand for, as a new tensor of `dtype`."""
        return _divide(velocities, self.velocity_scale, dtype)

    def displacement(self, velocities: Tensor) -> Tensor:
        """Return what integer `velocities` move a position by: themselves, less the guard bits.

        Rounded half up. Not a copy if there are no guard bits.
        """
        if not self.guard_bits:
            return velocities
        half = 2 ** (self.guard_bits - 1)
        return velocities.add(half).bitwise_right_shift_(self.guard_bits)


def _divide(integers: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return integers.to(work_dtype(dtype)).mul_(1.0 / scale).to(dtype)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the float type that the rule is computed in for activations of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def expected_noise(plan: StorePlan, num_blocks: int, fixed_point: FixedPoint) -> float:
    """Return the root mean square error that integers bring into a run's output.

    In units of the activation, against the rule in exact arithmetic. Increments are rounded to
    whole units of the velocity (variance 1/12) and reach the output with weight
    (1 - gamma^(N-j)) / (1 - gamma); so does the error of a multiplication by a coarse store.
    Positions miss what the velocity holds below their unit (variance 1/12 per block). Rounding of
    the blocks' own floats is not counted.
    """
    gamma = float(plan.gamma)
    first_push = num_blocks - len(plan.pushes)
    guard = 2.0**fixed_point.guard_bits
    variance = 0.0
    for block in range(num_blocks):
        weight = (1.0 - gamma ** (num_blocks - block)) / (1.0 - gamma)
        variance += ((weight / guard) ** 2 + 1.0) / 12.0
        if block >= first_push:
            variance += (weight * coarseness(plan, block - first_push) / guard) ** 2 / 12.0
    return math.sqrt(variance) / fixed_point.scale


def coarseness(plan: StorePlan, push: int) -> float:
    """Return by how many units at most multiplication number `push` falls short of gamma * v.

    The store's radix is rounded up to a whole number, so a digit of the velocity is
    `Z / next_radix` in place of `Z * n / (d * radix)`, for Z in [0, d * radix).
    """
    step = plan.pushes[push]
    n, d = plan.gamma.numerator, plan.gamma.denominator
    return n - d * step.radix / step.next_radix


def corrections(plan: StorePlan, num_blocks: int, guard_bits: int) -> tuple[float, ...]:
    """Return, for each block, the constant that keeps the mean error of positions at zero.

    In units of the velocity, added to the increment before it is rounded. The integer velocity is
    the floor of a finer one whose fraction sits in the store: a multiple of d^-m after m
    multiplications, so (1 - d^-m) / 2 on average. Positions move by the integer. Rounding it half
    up to a position's unit adds half a unit of the velocity. And multiplying falls short by half of
    `coarseness`. See "Noise" in this folder's README.
    """
    gamma, d = float(plan.gamma), float(plan.gamma.denominator)
    num_without = num_blocks - len(plan.pushes)
    rounding = 0.5 if guard_bits else 0.0
    result = []
    excess = 0.0  # of the velocity, fraction included, over what it should be on average
    for block in range(num_blocks):
        pushed = max(0, block - num_without + 1)
        short = coarseness(plan, pushed - 1) / 2.0 if pushed else 0.0
        wanted = (1.0 - d**-pushed) / 2.0 - rounding
        result.append(wanted - gamma * excess + short)
        excess = wanted
    return tuple(result)


def choose_fixed_point(
    plan: StorePlan,
    num_blocks: int,
    *,
    state_bits: int,
    scale_bits: int | None,
    activation_range: float | None,
) -> FixedPoint:
    """Choose the scale, from the state's width, the run's noise and what the caller knows.

    Args:
        plan: the run's multiplications.
        num_blocks: blocks in the run.
        state_bits: 32 or 16.
        scale_bits: binary places, if the caller wants to decide.
        activation_range: largest magnitude that positions will reach, if known; the finest scale
            that holds it is taken.

    Raises:
        ConfigError: an option is out of its range.
        ReversibilityError: the noise would exceed the tolerance of the state's width.
    """
    if state_bits not in _LIMIT:
        raise ConfigError(f"state_bits must be 32 or 16, got {state_bits!r}")
    if scale_bits is not None:
        candidates = [_checked_scale(state_bits, scale_bits)]
    elif activation_range is not None:
        candidates = [_scale_for_range(state_bits, activation_range)]
    else:
        candidates = list(range(_PREFERRED_SCALE_BITS[state_bits], _MAX_SCALE_BITS[state_bits] + 1))
    chosen = _quietest(plan, num_blocks, state_bits, candidates)
    _check_noise(plan, num_blocks, chosen)
    return chosen


def coarser(plan: StorePlan, num_blocks: int, fixed_point: FixedPoint, bits: int) -> FixedPoint:
    """Return `fixed_point` with every range doubled `bits` times, velocities' as well.

    Raises:
        ReversibilityError: the noise would exceed the tolerance of the state's width.
    """
    scale_bits = _checked_scale(fixed_point.state_bits, fixed_point.scale_bits - bits)
    setting = FixedPoint(fixed_point.state_bits, scale_bits, fixed_point.guard_bits)
    _check_noise(plan, num_blocks, setting)
    return setting


def _quietest(
    plan: StorePlan, num_blocks: int, state_bits: int, candidates: list[int]
) -> FixedPoint:
    """Return the first setting that is quiet enough, or the last one tried.

    Guard bits narrow only the range of velocities and increments, so they are tried before that of
    positions is given up; not where the positions themselves make most of the noise.
    """
    for scale_bits in candidates:
        of_positions = math.sqrt(num_blocks / 12.0) / 2.0**scale_bits
        aim = min(max(_AIM[state_bits], 1.5 * of_positions), _ENOUGH[state_bits])
        for guard_bits in range(_MAX_GUARD_BITS[state_bits] + 1):
            setting = FixedPoint(state_bits, scale_bits, guard_bits)
            noise = expected_noise(plan, num_blocks, setting)
            if noise <= aim:
                break
        if noise <= _ENOUGH[state_bits]:
            break
    return setting


def _check_noise(plan: StorePlan, num_blocks: int, setting: FixedPoint) -> None:
    noise = expected_noise(plan, num_blocks, setting)
    state_bits = setting.state_bits
    if noise > TOLERANCE[state_bits]:
        raise ReversibilityError(
            f"{num_blocks} blocks at gamma {plan.gamma} with scale_bits={setting.scale_bits} would "
            f"carry noise of {noise:.2g}, above the tolerance {TOLERANCE[state_bits]:g} of a "
            f"{state_bits}-bit state; use a smaller gamma, a shorter run"
            + (", state_bits=32" if state_bits == 16 else "")
            + " or more scale_bits (a smaller activation range)",
            code="noise_above_tolerance",
        )


def _checked_scale(state_bits: int, scale_bits: int) -> int:
    most = _MAX_SCALE_BITS[state_bits]
    if not isinstance(scale_bits, int) or not 0 <= scale_bits <= most:
        raise ConfigError(
            f"scale_bits must be a whole number from 0 to {most} for a {state_bits}-bit state, "
            f"got {scale_bits!r}"
        )
    return scale_bits


def _scale_for_range(state_bits: int, activation_range: float) -> int:
    if not math.isfinite(activation_range) or activation_range <= 0:
        raise ConfigError(
            f"activation_range must be a finite number above 0, got {activation_range!r}"
        )
    fitting = math.floor(math.log2(_LIMIT[state_bits] / activation_range))
    if fitting < 0:
        raise ConfigError(
            f"activation_range {activation_range:g} does not fit a {state_bits}-bit state; "
            f"it holds at most {_LIMIT[state_bits]}"
        )
    return min(fitting, _MAX_SCALE_BITS[state_bits])
