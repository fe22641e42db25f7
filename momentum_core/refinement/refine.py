"""Distillation: the momentum model (student) learns to answer as the original (teacher) does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from momentum_core.config import Preprocessing, RefinementConfig
from momentum_core.errors import DataError, StateRangeError
from momentum_core.refinement.evaluate import evaluate, to_input

HELD_BACK_SHARE = 0.1
MAX_HELD_BACK = 500
MAX_GRADIENT_NORM = 1.0
"""With fixed statistics nothing else bounds the first steps."""

_NUM_CHECKS = 4


@dataclass(frozen=True, slots=True)
class RefinementResult:
    """How refinement went."""

    num_steps: int
    """Steps made; fewer than asked for if training diverged."""

    best_step: int
    """Step whose weights were kept; 0 are those of the start."""

    losses: tuple[float, ...]
    """Training loss of each step."""

    held_back_divergence: tuple[tuple[int, float], ...]
    """Step, and the student's mean KL divergence from the teacher on the held-back images."""


def refine(
    student: nn.Module,
    teacher: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    preprocessing: Preprocessing,
    config: RefinementConfig,
    *,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> RefinementResult:
    """Train `student` in place; leave it with the best weights seen, those of the start included.

        loss = (1 - a) * T^2 * KL(teacher / T || student / T) + a * cross_entropy

    with T the temperature and a the label weight. Normalisation statistics stay those of the
    original. Which weights are best is decided on images held back from training.

    Args:
        student: the momentum model.
        teacher: the original model.
        images: training images, shape (B, H, W, C).
        labels: shape (B,).
        preprocessing: mean and standard deviation for each channel.
        config: steps, batch size, learning rate, weights of the loss.
        seed: of the order of images and their augmentation.
        on_step: called with the number of the step and its loss; may raise to stop.

    Raises:
        DataError: there are fewer than two images to train with.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network (arXiv:1503.02531).
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(images))
    num_held = min(MAX_HELD_BACK, max(1, round(HELD_BACK_SHARE * len(images))))
    held, train = order[:num_held], order[num_held:]
    if len(train) < 2:
        raise DataError(f"refinement needs at least 3 training images, got {len(images)}")
    target = evaluate(teacher, images[held], labels[held], preprocessing).logits

    def divergence() -> float:
        logits = evaluate(student, images[held], labels[held], preprocessing).logits
        return float(_kl(logits, target))

    best_step, best = 0, divergence()
    checks = [(0, best)]
    kept = copy.deepcopy(student.state_dict())
    losses: list[float] = []
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=config.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
    interval = max(1, math.ceil(config.max_steps / _NUM_CHECKS))
    student.eval()  # statistics stay; there is no dropout to miss in the families that convert
    teacher.eval()
    device = next(student.parameters()).device
    for step in range(config.max_steps):
        _set_learning_rate(optimizer, config, step)
        chosen = generator.choice(train, size=min(config.batch_size, len(train)), replace=False)
        batch = to_input(_augment(images[chosen], generator), preprocessing, device)
        truth = torch.from_numpy(labels[chosen]).to(device)
        try:
            loss = _train_step(student, teacher, optimizer, batch, truth, config)
        except StateRangeError:
            if step == 0:
                raise  # nothing was trained: the network itself does not fit
            break  # it diverged: the best weights so far are kept
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if on_step is not None:
            on_step(step + 1, loss)
        if (step + 1) % interval == 0 or step + 1 == config.max_steps:
            now = divergence()
            checks.append((step + 1, now))
            if now < best:
                best_step, best, kept = step + 1, now, copy.deepcopy(student.state_dict())
    student.load_state_dict(kept)
    return RefinementResult(len(losses), best_step, tuple(losses), tuple(checks))


def _train_step(
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    truth: Tensor,
    config: RefinementConfig,
) -> float:
    with torch.no_grad():
        target = teacher(batch)
    optimizer.zero_grad(set_to_none=True)
    logits = student(batch)
    soft = config.temperature**2 * _kl(logits / config.temperature, target / config.temperature)
    loss = (1 - config.label_weight) * soft + config.label_weight * F.cross_entropy(logits, truth)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return float(loss.detach())


def _kl(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(
        F.log_softmax(logits, dim=1),
        F.log_softmax(target, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, config: RefinementConfig, step: int
) -> None:
    """Set half a cosine from the peak to 0."""
    share = step / config.max_steps
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _augment(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Shift each image by up to an eighth of its side, with zeros coming in.

    No mirroring: digits and text do not bear it.
    """
    margin = max(1, images.shape[1] // 8)
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    height, width = images.shape[1:3]
    offsets = generator.integers(0, 2 * margin + 1, size=(len(images), 2))
    return np.stack(
        [
            image[top : top + height, left : left + width]
            for image, (top, left) in zip(padded, offsets, strict=True)
        ]
    )
