"""The images of each step: they follow from seed and step, so training can go on anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from momentum_core.refinement.training_images import TrainingImages

_ORDER, _SHIFT, _TORCH = 1, 2, 4
"""Streams of random numbers that have nothing to do with each other."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Training images in random order, each once in an epoch."""

    data: TrainingImages
    train: NDArray[np.int64]
    """Numbers of the images that train."""

    size: int
    seed: int
    shift: bool
    """Whether images are moved by up to an eighth of their side."""

    @property
    def per_epoch(self) -> int:
        """Steps that show every image once; what is left over of an epoch is not shown."""
        return len(self.train) // self.size

    def of_step(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Return images and labels of a step, which is counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.train)
        chosen = order[place * self.size : (place + 1) * self.size]
        images = self.data.images[chosen]
        if self.shift:
            images = shifted(images, np.random.default_rng([self.seed, _SHIFT, step]))
        return images, None if self.data.labels is None else self.data.labels[chosen]

    def torch_seed(self, step: int) -> int:
        """Return the seed of all that a step draws from torch, such as dropout."""
        return int(np.random.default_rng([self.seed, _TORCH, step]).integers(2**63))


def shifted(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
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
