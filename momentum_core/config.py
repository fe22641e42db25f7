"""Every option of conversion, measurement and refinement, defined once (refinement's beside).

The library takes these values, the stored job carries them, and the API validates with them. They
are frozen, free of torch, and checked where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

from momentum_core.errors import ConfigError
from momentum_core.gamma import round_gamma
from momentum_core.option_checks import check_integer, check_number
from momentum_core.refinement_options import FinetuningConfig, RefinementConfig, RefinementGoal

__all__ = [
    "CalibrationConfig",
    "ConversionConfig",
    "FinetuningConfig",
    "MeasurementConfig",
    "Preprocessing",
    "RefinementConfig",
    "RefinementGoal",
]

Scheme = Literal["compensated", "paper"]

Strategy = Literal["reverse", "recompute", "recompute_whole", "store"]
"""What a part keeps for the backward pass: its last state (runs only), the inputs of its blocks (of
another part: its input), its input alone (runs only), or its activations."""

Optimizer = Literal["sgd", "sgd_momentum", "adam"]
"""Keeps no number, one number, or two numbers for each parameter."""

RuleForm = Literal["scalar", "channel", "offset", "predictor"]

DEFAULT_TOLERANCE = 0.003

UNCHOSEN_GAMMA = Fraction(1, 2)
"""Where gamma is `auto`, until it is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionConfig:
    """How residual blocks become reversible momentum blocks."""

    gamma: float | Literal["auto"] = 0.5
    """Momentum term, rounded to a fraction (see `momentum_core.gamma`). Larger: smoother dynamics,
    further from the original network, less memory. `auto` leaves it to `calibration.calibrate`,
    which chooses one for each run; until then it is 1/2."""

    scheme: Scheme = "compensated"
    """`compensated` gives every block its full weight at the end; `paper` is the published rule."""

    tolerance: float = DEFAULT_TOLERANCE
    """With gamma `auto`: the share of images, 0 to 1, whose top-1 prediction may change."""

    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    """What runs and other parts keep for the backward pass, by the name of their first module; the
    planner chooses for the rest. The forward pass is the same whatever is chosen."""

    max_slowdown: float = 1.4
    """Most that a training step may take, over that of the original, by the count of forward
    passes. One more of everything makes 4/3; below that some parts are stored."""

    plan_memory: bool = True
    """Whether memory is predicted when planning (seconds). If not, every run is reversed and the
    rest is recomputed, but for `strategies`."""

    @property
    def start_gamma(self) -> Fraction:
        """The momentum term before any choice: the fraction that is used."""
        return UNCHOSEN_GAMMA if self.gamma == "auto" else round_gamma(self.gamma)

    def __post_init__(self) -> None:
        _ = self.start_gamma
        check_number("tolerance", self.tolerance, low=0, high=1, remedy="try 0.003")
        if self.scheme not in ("compensated", "paper"):
            raise ConfigError(f"scheme must be 'compensated' or 'paper', got {self.scheme!r}")
        for name, strategy in self.strategies.items():
            if strategy not in get_args(Strategy):
                raise ConfigError(
                    f"strategies[{name!r}] must be one of {', '.join(get_args(Strategy))}, "
                    f"got {strategy!r}"
                )
        remedy = "1.4 allows one more forward pass of everything"
        check_number("max_slowdown", self.max_slowdown, low=1, high=10, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """How the numbers of the momentum rule are fitted to the original's answers."""

    form: RuleForm = "predictor"
    """What is fitted for each block: `scalar` one c, `channel` a c for each channel, `offset` c and
    b for each channel, `predictor` c, b and p for each channel."""

    max_steps: int = 60
    """Optimizer steps after the least squares; 0 leaves it at those."""

    learning_rate: float = 0.03
    """Peak of Adam's, in units of each number's natural size; it falls to 0 along a cosine."""

    held_back: float = 0.25
    """Share of the batches that is not fitted to but decides what is kept."""

    def __post_init__(self) -> None:
        forms = get_args(RuleForm)
        if self.form not in forms:
            raise ConfigError(f"form must be one of {', '.join(forms)}, got {self.form!r}")
        check_integer("max_steps", self.max_steps, low=0, high=10_000)
        check_number("learning_rate", self.learning_rate, low=0, high=1, remedy="try 0.03")
        check_number("held_back", self.held_back, low=0.01, high=0.9, remedy="try 0.25")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementConfig:
    """The training step whose memory and time are measured."""

    batch_size: int = 8
    """Images in the measured step."""

    image_size: int | None = None
    """Side of the square input in pixels; None takes the architecture's own."""

    repeats: int = 5
    """Timed repetitions of the step, all methods in turns; minimum, median and maximum are told."""

    optimizer: Optimizer = "sgd_momentum"
    """Makes the step: `sgd` keeps nothing, `sgd_momentum` one number, `adam` two numbers for each
    parameter."""

    rivals: bool = True
    """Whether gradient checkpointing and, if it is installed, the authors' momentumnet are measured
    beside original and momentum network."""

    predict: bool = True
    """Whether the memory of GPUs is predicted, too: seconds for a small network, half a minute for
    ResNet-152."""

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            names = ", ".join(get_args(Optimizer))
            raise ConfigError(f"optimizer must be one of {names}, got {self.optimizer!r}")
        check_integer("batch_size", self.batch_size, low=1, high=4096)
        if self.image_size is not None:
            check_integer("image_size", self.image_size, low=8, high=2048)
        check_integer("repeats", self.repeats, low=1, high=100)


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
            check_number("mean", value, low=0, high=1, remedy="give it for pixels in 0..1")
        for value in self.std:
            check_number("std", value, low=1e-3, high=1, remedy="give it for pixels in 0..1")
