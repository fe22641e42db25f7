"""Training images, and their split into those that train and those that judge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from momentum_core.errors import DataError

MIN_IMAGES = 3
"""A step takes two, and one is held back."""

MAX_HELD_BACK = 1000
MAX_LEAKED = 100
"""One in so many test images may be a training image, too; it then trains nothing."""


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """Images to train with."""

    images: NDArray[np.uint8]
    """Shape (N, H, W, C)."""

    labels: NDArray[np.int64] | None = None
    """Class numbers, shape (N,); None if they are not known."""

    synthetic: bool = False
    """Whether they were made up: what is measured on them says little about real ones."""

    def __post_init__(self) -> None:
        shape = self.images.shape
        if len(shape) != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"training images must be uint8 of shape (N, H, W, C), got {self.images.dtype} of "
                f"shape {shape}"
            )
        if len(self.images) < MIN_IMAGES:
            raise DataError(
                f"training needs at least {MIN_IMAGES} images, one of them to judge with, got "
                f"{len(self.images)}; give more"
            )
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise DataError(
                f"{len(self.images)} training images have labels of shape {self.labels.shape}; "
                "give one for each"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRecord:
    """How training images were divided; the same images and seed give the same split."""

    seed: int
    num_train: int
    num_held_back: int
    """Images that judge. Copies of an image are all on one side."""

    num_copies: int
    """Images that are pixel for pixel another one."""

    num_left_out: int
    """Images that are test images, too, and are not used."""

    held_back_sha256: str
    """Of the sorted numbers of the images that judge, as little-endian int64."""


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of the images on each side."""

    train: NDArray[np.int64]
    held_back: NDArray[np.int64]
    record: SplitRecord


def split_images(
    data: TrainingImages,
    *,
    share: float,
    seed: int,
    test_images: NDArray[np.uint8] | None = None,
) -> Split:
    """Divide training images; no image, nor a copy of it, is on two sides.

    Args:
        data: what is divided.
        share: of the images that judge; never more than `MAX_HELD_BACK`.
        seed: of the choice.
        test_images: what accuracy will be measured on; training images among them are left out.

    Raises:
        DataError: more than a few test images are training images, or too few
            different images are left.
    """
    digests = _digests(data.images)
    leaked = _leaked(digests, test_images)
    groups: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        if digest not in leaked:
            groups.setdefault(digest, []).append(number)
    if len(groups) < MIN_IMAGES:
        raise DataError(
            f"training needs at least {MIN_IMAGES} different images that are no test images, got "
            f"{len(groups)}; give more"
        )
    num_used = sum(map(len, groups.values()))
    num_held = min(MAX_HELD_BACK, max(1, round(share * num_used)), num_used - 2)
    held, train = _divided(list(groups.values()), num_held, seed)
    record = SplitRecord(
        seed=seed,
        num_train=len(train),
        num_held_back=len(held),
        num_copies=num_used - len(groups),
        num_left_out=len(digests) - num_used,
        held_back_sha256=hashlib.sha256(held.astype("<i8").tobytes()).hexdigest(),
    )
    return Split(train, held, record)


def _divided(
    groups: Sequence[Sequence[int]], num_held: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    held: list[int] = []
    train: list[int] = []
    for place, position in enumerate(np.random.default_rng([seed, 0]).permutation(len(groups))):
        # At least one group is left to train with.
        is_held = len(held) < num_held and place < len(groups) - 1
        (held if is_held else train).extend(groups[position])
    return np.array(sorted(held), dtype=np.int64), np.array(sorted(train), dtype=np.int64)


def _leaked(digests: Sequence[bytes], test_images: NDArray[np.uint8] | None) -> set[bytes]:
    """Return the digests of training images that are test images."""
    if test_images is None:
        return set()
    tested = _digests(test_images)
    both = set(tested) & set(digests)
    num_leaked = sum(digest in both for digest in tested)
    if num_leaked * MAX_LEAKED > len(tested):
        raise DataError(
            f"{num_leaked} of {len(tested)} test images are training images, too, so they would "
            "say nothing about new images; give test images of their own"
        )
    return both


def _digests(images: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
