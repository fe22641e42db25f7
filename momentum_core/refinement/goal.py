"""Judges a model on held-back images: how far it is from its goal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from momentum_core.calibration.fidelity import divergence_of
from momentum_core.config import Preprocessing, RefinementGoal
from momentum_core.errors import DataError
from momentum_core.refinement.evaluate import answers
from momentum_core.refinement.processes import Processes

_ROUNDING = 1e-9
"""Percentages are quotients."""


@dataclass(frozen=True, slots=True)
class Score:
    """A model on the held-back images."""

    percent: float
    """Top-1 accuracy, or agreement with the original."""

    loss: float
    """What the best model has least of: mean KL divergence from the original, or cross-entropy.

    A percentage of some hundred images moves in steps, and often not at all."""

    def is_better_than(self, other: Score) -> bool:
        """Whether its loss is lower; not a number is never better."""
        return self.loss < other.loss


class Judge:
    """Held-back images with the answers that are wanted."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        preprocessing: Preprocessing,
        *,
        original: nn.Module | None,
        metric: Literal["top1", "agreement"],
        goal: RefinementGoal | None,
    ) -> None:
        """Look at the images with the original's eyes.

        Args:
            images: shape (N, H, W, C).
            labels: shape (N,); needed for `top1`.
            preprocessing: mean and standard deviation for each channel.
            original: what is imitated; None judges by the labels alone.
            metric: what `Score.percent` counts.
            goal: what is to be reached.

        Raises:
            DataError: `non_finite_output`, when the original's answers are no numbers.
        """
        assert labels is not None or (original is not None and metric == "agreement")
        self._images, self._preprocessing = images, preprocessing
        self._labels = None if labels is None else torch.from_numpy(labels)
        self._metric = metric
        self.loss_name = "cross-entropy" if original is None else "divergence"
        """What `Score.loss` is."""

        self._target: Tensor | None = None
        self.original_percent: float | None = None
        """The original's own figure; None without one."""

        if original is not None:
            self._target = answers(original, images, preprocessing)
            if not bool(self._target.isfinite().all()):
                raise DataError(
                    "the original's logits are not finite for these images; look at its weights "
                    "and running statistics, and at preprocessing",
                    code="non_finite_output",
                )
            self.original_percent = self._percent(self._target)
        self.target_percent = self._target_percent(goal)
        """The least that meets the goal; None without one."""

    def score(self, model: nn.Module) -> Score:
        """Show the held-back images to a model; its training flags are as before afterwards."""
        logits = answers(model, self._images, self._preprocessing)
        return Score(self._percent(logits), self._loss(logits))

    def score_of_first(self, model: nn.Module, processes: Processes) -> Score:
        """Return the score that the first of several processes finds: they must go on alike."""
        return Score(**processes.from_first(lambda: asdict(self.score(model))))

    def is_met(self, score: Score) -> bool | None:
        """Whether a model has reached the goal; None without one."""
        if self.target_percent is None:
            return None
        return score.percent >= self.target_percent - _ROUNDING

    def _target_percent(self, goal: RefinementGoal | None) -> float | None:
        if goal is None or self.original_percent is None:
            return None
        return goal.target_percent(self.original_percent)

    def _percent(self, logits: Tensor) -> float:
        wanted = self._labels
        if self._metric == "agreement" and self._target is not None:
            wanted = self._target.argmax(dim=1)
        assert wanted is not None, "checked at the start"
        return 100.0 * float((logits.argmax(dim=1) == wanted).double().mean())

    def _loss(self, logits: Tensor) -> float:
        if self._target is not None:
            return float(divergence_of(logits.double(), self._target.double()))
        assert self._labels is not None
        return float(F.cross_entropy(logits.double(), self._labels))
