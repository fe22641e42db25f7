"""What a training step minimises: the distance from the original's answers, and from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_core.calibration.fidelity import divergence_of
from momentum_core.calibration.watch import evaluation_mode, outputs_of
from momentum_core.conversion import plan_of
from momentum_core.refinement.recipe import Recipe


class Objective(Protocol):
    """A loss as the sum of its parts."""

    def parts(self, model: nn.Module, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the weighted parts, each a mean over the images; their sum is minimised.

        Args:
            model: what is trained.
            images: its input.
            labels: class numbers, shape (B,), where they are known.
        """
        ...


class CrossEntropy:
    """The labels alone."""

    def parts(self, model: nn.Module, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        assert labels is not None, "checked before training"
        return {"labels": F.cross_entropy(model(images).float(), labels)}


class Distillation:
    """The original's logits, its activations at the runs' ends, and the labels.

        loss = (1 - a) * T^2 * KL(original / T || model / T) + a * cross_entropy
               + w * mean over runs and images of |x - x*|^2 / |x*|^2

    with temperature T, label weight a, feature weight w, and x and x* a run's output for an image
    in the model and in the original. Parts of weight 0 are not computed.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network (arXiv:1503.02531);
    Romero et al. 2014, FitNets (arXiv:1412.6550), for the activations.
    """

    def __init__(self, original: nn.Module, converted: nn.Module, recipe: Recipe) -> None:
        """Imitate `original`.

        Args:
            original: it stays as it is.
            converted: the model that will be trained, made from it.
            recipe: weights and temperature.
        """
        self._original, self._recipe = original, recipe
        runs = plan_of(converted).runs if recipe.feature_weight else ()
        self._ends = [original.get_submodule(run.blocks[-1]) for run in runs]
        self._own_ends = [converted.get_submodule(run.name) for run in runs]

    def parts(self, model: nn.Module, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the parts, weighted."""
        recipe, weight = self._recipe, self._recipe.label_weight
        with torch.no_grad(), evaluation_mode(self._original), outputs_of(self._ends) as goals:
            target = self._original(images).float()
        with outputs_of(self._own_ends) as positions:
            logits = model(images).float()
        soft = divergence_of(logits, target, temperature=recipe.temperature)
        found = {"distillation": (1 - weight) * soft}
        if weight:
            assert labels is not None, "checked before training"
            found["labels"] = weight * F.cross_entropy(logits, labels)
        if recipe.feature_weight:
            found["features"] = recipe.feature_weight * _relative_error(positions, goals)
        return found


def _relative_error(positions: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Return a mean over images, so that a batch's pieces add up to the batch."""
    errors = [
        ((x.float() - goal.float()).square().flatten(1).sum(dim=1))
        / goal.float().square().flatten(1).sum(dim=1).clamp_min(1e-12)
        for x, goal in zip(positions, goals, strict=True)
    ]
    return torch.stack(errors).mean()
