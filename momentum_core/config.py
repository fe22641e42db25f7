"""Every option of conversion, measurement and refinement, defined once.

The library takes these values, the stored job carries them, and the API validates with them. They
are frozen, free of torch, and checked where they are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from momentum_core.errors import ConfigError
from momentum_core.gamma import round_gamma

Scheme = Literal["compensated", "paper"]


def _check_number(name: str, value: object, *, low: float, high: float, remedy: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[operator,arg-type]
        raise ConfigError(
            f"{name} must be a number from {low:g} to {high:g}, got {value!r}; {remedy}"
        )


def _check_integer(name: str, value: object, *, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionConfig:
    """How residual blocks become reversible momentum blocks."""

    gamma: float = 0.5
    """Momentum term, rounded to a fraction (see `momentum_core.gamma`). Larger: smoother dynamics,
    further from the original network."""

    scheme: Scheme = "compensated"
    """`compensated` gives every block its full weight at the end; `paper` is the published rule."""

    def __post_init__(self) -> None:
        round_gamma(self.gamma)
        if self.scheme not in ("compensated", "paper"):
            raise ConfigError(f"scheme must be 'compensated' or 'paper', got {self.scheme!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementConfig:
    """The training step whose memory and time are measured."""

    batch_size: int = 8
    """Images in the measured step."""

    image_size: int | None = None
    """Side of the square input in pixels; None takes the architecture's own."""

    repeats: int = 5
    """Timed repetitions of the step, original and momentum in turns; the median is reported."""

    def __post_init__(self) -> None:
        _check_integer("batch_size", self.batch_size, low=1, high=4096)
        if self.image_size is not None:
            _check_integer("image_size", self.image_size, low=8, high=2048)
        _check_integer("repeats", self.repeats, low=1, high=100)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementConfig:
    """How the converted network is trained to match the original."""

    max_steps: int = 100
    """Optimizer steps at most; 0 leaves the weights as they are."""

    batch_size: int = 128
    """Images in a step."""

    learning_rate: float = 0.01
    """Peak learning rate of SGD with momentum 0.9; it falls to 0 along a cosine."""

    weight_decay: float = 1e-4
    """L2 penalty on the weights."""

    temperature: float = 4.0
    """Softens the teacher's logits in the distillation loss."""

    label_weight: float = 0.1
    """Share of the cross-entropy with the labels in the loss; the rest is distillation."""

    def __post_init__(self) -> None:
        _check_integer("max_steps", self.max_steps, low=0, high=1_000_000)
        _check_integer("batch_size", self.batch_size, low=2, high=4096)
        _check_number("learning_rate", self.learning_rate, low=0, high=10, remedy="try 0.01")
        _check_number("weight_decay", self.weight_decay, low=0, high=1, remedy="try 1e-4")
        _check_number("temperature", self.temperature, low=0.1, high=100, remedy="try 4")
        _check_number("label_weight", self.label_weight, low=0, high=1, remedy="try 0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How uint8 pixels become the network's input: `(pixel / 255 - mean) / std`, per channel."""

    mean: tuple[float, ...]
    """Mean of each channel, in 0..1."""

    std: tuple[float, ...]
    """Standard deviation of each channel, in 0..1."""

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(
                "mean and std need one number for each channel, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        for value in self.mean:
            _check_number("mean", value, low=0, high=1, remedy="give it for pixels in 0..1")
        for value in self.std:
            _check_number("std", value, low=1e-3, high=1, remedy="give it for pixels in 0..1")
