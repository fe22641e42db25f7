"""How near a momentum model's answers are to the original's: no labels are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_core.calibration.watch import logits_of
from momentum_core.conversion import ExampleInput


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over images (or tokens: every position that has logits of its own)."""

    num_answers: int

    agreement: float
    """Share of largest logits that are the original's, 0 to 1."""

    divergence: float
    """KL divergence of the probabilities from the original's, in nats."""

    distance: float
    """Total variation distance, 0 to 1. Of answers drawn from the probabilities no more than this
    share changes; so whatever the labels are, their accuracy changes by no more."""


@torch.no_grad()
def measure_fidelity(
    model: nn.Module, batches: Sequence[ExampleInput], targets: Sequence[Tensor]
) -> Fidelity:
    """Compare a model's answers with the original's.

    Args:
        model: in evaluation mode.
        batches: what it is shown.
        targets: the original's logits for each batch, the last dimension the classes.
    """
    count, same, divergence, distance = 0, 0.0, 0.0, 0.0
    for batch, target in zip(batches, targets, strict=True):
        logits = logits_of(model, batch).double().flatten(0, -2)
        target = target.double().flatten(0, -2)
        count += len(target)
        same += float((logits.argmax(dim=1) == target.argmax(dim=1)).sum())
        divergence += float(divergence_of(logits, target)) * len(target)
        distance += float((logits.softmax(dim=1) - target.softmax(dim=1)).abs().sum()) / 2
    return Fidelity(count, same / count, divergence / count, distance / count)


def divergence_of(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the mean KL divergence from `target`, both of shape (answers, classes).

    It is multiplied by the temperature's square, so that gradients do not shrink with it.
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(target / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence
