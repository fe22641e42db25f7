"""The options of refinement: what is to be reached, with what budget, and how.

`auto` leaves a value to the rule in the option's sentence; `refinement.recipe` has the rules, and a
result says what they gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from momentum_core.errors import ConfigError
from momentum_core.option_checks import check_choice, check_integer, check_number

Auto = Literal["auto"]
Metric = Literal["auto", "top1", "agreement"]
Criterion = Literal["absolute", "relative"]
Precision = Literal["auto", "float32", "bfloat16"]
Augmentation = Literal["auto", "shift", "none"]

USUAL_FINETUNING_BATCH, USUAL_FINETUNING_RATE = 16, 0.003

_NO_REFINEMENT = "to convert without refining, set refinement to null"


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementGoal:
    """How much of the original's accuracy may be lost.

    It is judged on training images held back from training, never on test images.
    """

    metric: Metric = "auto"
    """`top1` needs labels; `agreement` is the share of images with the original's prediction.
    `auto`: `top1` where there are labels, else `agreement`."""

    criterion: Criterion = "absolute"
    """Whether the loss is meant in points, or in percent of the original's figure."""

    tolerable_loss: float = 0.3
    """The most that may be lost, 0 to 100."""

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, get_args(Metric))
        check_choice("criterion", self.criterion, get_args(Criterion))
        remedy = "it is what may be lost, in points or percent: try 0.3"
        check_number("tolerable_loss", self.tolerable_loss, low=0, high=100, remedy=remedy)

    def target_percent(self, original_percent: float) -> float:
        """Return the least that meets the goal, in percent.

        absolute: original - loss          relative: original * (1 - loss / 100)
        """
        if self.criterion == "absolute":
            return original_percent - self.tolerable_loss
        return original_percent * (1 - self.tolerable_loss / 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementConfig:
    """How the converted network is trained to answer as the original does."""

    goal: RefinementGoal | None = field(default_factory=RefinementGoal)
    """Training stops as soon as it is met; None trains for the whole budget."""

    max_steps: int = 100
    """Optimizer steps at most, 1 or more."""

    max_minutes: float | None = None
    """Time at most, of the steps and evaluations; None sets no limit."""

    calibrate: bool = True
    """Fit the momentum rule to the original first, on training images; kept only where that is
    better on held-back images."""

    batch_size: int | Auto = "auto"
    """Images in a step. `auto`: 128, or a quarter of the images if those are fewer."""

    micro_batch_size: int | Auto = "auto"
    """Images that are in memory at once; gradients of a step's parts are added up. `auto`: the
    whole batch. Halved once when memory runs out."""

    learning_rate: float | Auto = "auto"
    """Peak of SGD with momentum 0.9; it falls to 0 along a cosine. `auto`: 0.03 for 128 images, in
    proportion to the batch size."""

    weight_decay: float | Auto = "auto"
    """L2 penalty on the weights. `auto`: 1e-4."""

    temperature: float | Auto = "auto"
    """Softens both networks' logits in the distillation loss. `auto`: 4."""

    label_weight: float | Auto = "auto"
    """Share of the cross-entropy with the labels; the rest is distillation. `auto`: 0.1, or 0
    without labels."""

    feature_weight: float | Auto = "auto"
    """Weight of the relative squared distance from the original's activations at the runs' ends.
    `auto`: 0."""

    augmentation: Augmentation = "auto"
    """`shift` moves each image by up to an eighth of its side. `auto`: `shift`."""

    evaluation_interval: int | Auto = "auto"
    """Steps between two evaluations on the held-back images. `auto`: an eighth of `max_steps`, 25
    at most."""

    held_back: float | Auto = "auto"
    """Share of the training images that judge and do not train. `auto`: a tenth, at most 1,000
    images."""

    precision: Precision = "auto"
    """`auto`: mixed with bfloat16 on GPUs that have it, else float32."""

    gamma_steps: int | Auto = "auto"
    """Steps in which gamma moves to its own value, from a small one where the network is nearly its
    original; `max_steps` at most. `auto`: 0, it is its own from the start."""

    def __post_init__(self) -> None:
        check_integer("max_steps", self.max_steps, low=1, high=1_000_000, remedy=_NO_REFINEMENT)
        if self.max_minutes is not None and self.max_minutes == 0:
            raise ConfigError(f"max_minutes must be above 0, got 0; {_NO_REFINEMENT}")
        if self.max_minutes is not None:
            check_number("max_minutes", self.max_minutes, low=0, high=100_000, remedy="try 30")
        for name, low, high in (
            ("batch_size", 2, 4096),
            ("micro_batch_size", 1, 4096),
            ("evaluation_interval", 1, 1_000_000),
        ):
            if getattr(self, name) != "auto":
                check_integer(name, getattr(self, name), low=low, high=high)
        for name, least, most, remedy in (
            ("learning_rate", 0, 10, "try 0.03"),
            ("weight_decay", 0, 1, "try 1e-4"),
            ("temperature", 0.1, 100, "try 4"),
            ("label_weight", 0, 1, "try 0.1"),
            ("feature_weight", 0, 1000, "try 1"),
            ("held_back", 0.01, 0.9, "try 0.1"),
        ):
            if getattr(self, name) != "auto":
                check_number(name, getattr(self, name), low=least, high=most, remedy=remedy)
        if self.gamma_steps != "auto":
            check_integer("gamma_steps", self.gamma_steps, low=0, high=self.max_steps)
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("augmentation", self.augmentation, get_args(Augmentation))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Make the options of what `asdict` gave; what is missing takes its default."""
        given = dict(values)
        if given.get("goal") is not None:
            given["goal"] = RefinementGoal(**given["goal"])
        return cls(**given)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningConfig:
    """How a network learns the user's own classes; the original and its momentum form alike.

    The sentences of what is not explained here are those of `RefinementConfig`.
    """

    max_steps: int = 100
    max_minutes: float | None = None
    """Time at most, for each of the two networks."""

    head_steps: int | Auto = "auto"
    """Steps at the start in which the new head alone learns. `auto`: a third of `max_steps`."""

    batch_size: int | Auto = "auto"
    """Images in a step. `auto`: 16, or a quarter of the images if those are fewer."""

    micro_batch_size: int | Auto = "auto"
    learning_rate: float | Auto = "auto"
    """`auto`: 0.003 for 16 images, in proportion to the batch size; the new head's is ten times as
    large."""

    weight_decay: float | Auto = "auto"
    augmentation: Augmentation = "auto"
    evaluation_interval: int | Auto = "auto"
    held_back: float | Auto = "auto"
    precision: Precision = "auto"
    calibrate: bool = True

    memory_budget_mib: float | Auto = "auto"
    """Memory for which the largest batch of each network is sought. `auto`: what the original's
    step takes with `batch_size` images."""

    def __post_init__(self) -> None:
        self.as_refinement()
        if self.head_steps != "auto":
            check_integer("head_steps", self.head_steps, low=0, high=self.max_steps)
        if self.memory_budget_mib != "auto":
            remedy = "try 4096"
            check_number(
                "memory_budget_mib", self.memory_budget_mib, low=1, high=1e7, remedy=remedy
            )

    @property
    def num_head_steps(self) -> int:
        """Steps in which the head alone learns."""
        return self.max_steps // 3 if self.head_steps == "auto" else self.head_steps

    def as_refinement(self, *, num_images: int | None = None) -> RefinementConfig:
        """Return the options of the training itself: from labels alone, for the whole budget.

        Args:
            num_images: images that train; with it, `auto` gives way to the rules of this class.
        """
        batch, rate = self.batch_size, self.learning_rate
        if num_images is not None and batch == "auto":
            batch = max(2, min(USUAL_FINETUNING_BATCH, num_images // 4))
        if num_images is not None and rate == "auto":
            assert batch != "auto"
            rate = USUAL_FINETUNING_RATE * batch / USUAL_FINETUNING_BATCH
        return RefinementConfig(
            goal=None,
            max_steps=self.max_steps,
            max_minutes=self.max_minutes,
            calibrate=self.calibrate,
            batch_size=batch,
            micro_batch_size=self.micro_batch_size,
            learning_rate=rate,
            weight_decay=self.weight_decay,
            label_weight=1.0,
            augmentation=self.augmentation,
            evaluation_interval=self.evaluation_interval,
            held_back=self.held_back,
            precision=self.precision,
        )
