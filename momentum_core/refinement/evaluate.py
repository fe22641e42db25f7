"""Top-1 accuracy and logits of a classifier on uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from momentum_core.calibration.watch import evaluation_mode
from momentum_core.config import Preprocessing

EVALUATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier answered."""

    logits: Tensor
    """Shape (images, classes), on the CPU."""

    num_correct: int | None
    """Images whose largest logit is that of their label; None if there are no labels."""

    @property
    def num_images(self) -> int:
        """Images that were shown."""
        return self.logits.shape[0]

    @property
    def top1_percent(self) -> float | None:
        """Share of images whose largest logit is that of their label, in percent."""
        return None if self.num_correct is None else 100.0 * self.num_correct / self.num_images


def to_input(
    images: NDArray[np.uint8], preprocessing: Preprocessing, device: torch.device | str = "cpu"
) -> Tensor:
    """Return `(pixel / 255 - mean) / std` of images (B, H, W, C) as float32 (B, C, H, W)."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    floats = pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()
    mean = torch.tensor(preprocessing.mean, device=device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(-1, 1, 1)
    return floats.sub_(mean).div_(std)


@torch.no_grad()
def answers(
    model: nn.Module,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the logits of all images, shape (images, classes), in float32 on the CPU.

    The model is in evaluation mode meanwhile; every part's flag is as before afterwards.

    Args:
        model: a classifier.
        images: shape (B, H, W, C).
        preprocessing: mean and standard deviation for each channel.
        on_batch: called with the number of images shown so far; may raise to stop.
    """
    device = next(model.parameters()).device
    found: list[Tensor] = []
    with evaluation_mode(model):
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = images[start : start + EVALUATION_BATCH]
            found.append(model(to_input(batch, preprocessing, device)).float().cpu())
            if on_batch is not None:
                on_batch(start + len(batch))
    return torch.cat(found)


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    preprocessing: Preprocessing,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Show all images to `model` and count its right answers; see `answers`.

    Args:
        model: a classifier.
        images: shape (B, H, W, C).
        labels: shape (B,); None if they are not known.
        preprocessing: mean and standard deviation for each channel.
        on_batch: called with the number of images shown so far; may raise to stop.
    """
    logits = answers(model, images, preprocessing, on_batch=on_batch)
    if labels is None:
        return Evaluation(logits, None)
    return Evaluation(logits, int((logits.argmax(dim=1) == torch.from_numpy(labels)).sum()))
