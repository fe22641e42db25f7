"""No image judges what it has trained, and every step's images follow from seed and step."""

from __future__ import annotations

import numpy as np
import pytest

from momentum_core.errors import DataError
from momentum_core.refinement import TrainingImages, split_images
from momentum_core.refinement.batches import Batches
from momentum_core.refinement.series import MAX_POINTS, Series


def different(count: int) -> np.ndarray:
    images = np.zeros((count, 4, 4, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    return images


def test_a_split_is_complete_and_follows_from_the_seed():
    data = TrainingImages(different(100))
    first, again, other = (split_images(data, share=0.2, seed=seed) for seed in (5, 5, 6))
    assert sorted([*first.train, *first.held_back]) == list(range(100))
    assert len(first.held_back) == first.record.num_held_back == 20
    assert first.record == again.record
    assert first.record.held_back_sha256 != other.record.held_back_sha256


def test_copies_of_an_image_are_on_one_side():
    images = np.concatenate([different(30)] * 3)
    split = split_images(TrainingImages(images), share=0.3, seed=1)
    assert split.record.num_copies == 60
    assert not {n % 30 for n in split.train} & {n % 30 for n in split.held_back}
    assert len(split.train) + len(split.held_back) == 90


def test_a_few_test_images_among_the_training_images_are_left_out():
    images = different(500)
    tested = np.concatenate([images[7:8], different(700)[500:]])
    split = split_images(TrainingImages(images), share=0.1, seed=0, test_images=tested)
    assert split.record.num_left_out == 1
    assert 7 not in {*split.train, *split.held_back}


def test_test_images_that_are_the_training_images_are_refused():
    images = different(100)
    with pytest.raises(DataError, match="10 of 100 test images"):
        split_images(TrainingImages(images), share=0.1, seed=0, test_images=different(190)[90:])


def test_too_few_different_images_are_refused():
    images = np.concatenate([different(2)] * 10)
    with pytest.raises(DataError, match="got 2"):
        split_images(TrainingImages(images), share=0.1, seed=0)


def test_an_epoch_shows_every_image_once_and_any_step_can_be_had_alone():
    data = TrainingImages(different(50), np.arange(50))
    batches = Batches(data, np.arange(5, 50), 15, 3, shift=False)
    assert batches.per_epoch == 3
    for epoch in range(2):
        seen = [batches.of_step(3 * epoch + place) for place in range(3)]
        assert sorted(np.concatenate([labels for _, labels in seen])) == list(range(5, 50))
        assert all((data.images[labels] == images).all() for images, labels in seen)
    first, second = (batches.of_step(step)[1] for step in (0, 3))
    assert list(first) != list(second)
    assert list(batches.of_step(4)[1]) == list(
        Batches(data, batches.train, 15, 3, True).of_step(4)[1]
    )


def test_shifting_moves_pixels_by_an_eighth_at_most():
    images = np.zeros((64, 16, 16, 1), dtype=np.uint8)
    images[:, 8, 8] = 255
    data = TrainingImages(images + np.arange(64, dtype=np.uint8)[:, None, None, None] // 64)
    shifted, _ = Batches(data, np.arange(64), 64, 0, shift=True).of_step(0)
    places = np.argwhere(shifted[..., 0] == 255)[:, 1:] - 8
    assert len(places) == 64
    assert places.min() == -2
    assert places.max() == 2


def test_a_long_series_keeps_evenly_spaced_points():
    series = Series()
    for step in range(1, 4001):
        series.add(step, {"loss": 1 / step})
    steps = [one["step"] for one in series.points]
    assert len(steps) <= MAX_POINTS
    assert series.stride == 8
    assert steps == list(range(1, 4001, 8))
