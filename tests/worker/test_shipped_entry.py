"""The entry that the project ships is what its catalogue says, without any network."""

from __future__ import annotations

import hashlib

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from momentum_core.architectures import build
from momentum_core.checkpoint import read_dataset
from momentum_core.refinement import evaluate
from worker.contract.intake import inspect_checkpoint, inspect_dataset
from worker.contract.zoo import ZOO, find_zoo_entry
from worker.zoo import SHIPPED_FOLDER, fetch_zoo_checkpoint, shipped_dataset

ENTRY = find_zoo_entry("digits_resnet26")
WEIGHTS = SHIPPED_FOLDER / ENTRY.file_name
NUM_CLASSES, NUM_TEST = 10, 500


@pytest.fixture(scope="module")
def dataset():
    return read_dataset(shipped_dataset(ENTRY))


@pytest.fixture(scope="module")
def model():
    model = build(ENTRY.architecture, num_classes=ENTRY.num_classes)
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model


def rows(images, labels) -> list[bytes]:
    """Each image with its label, as bytes that can be compared and sorted."""
    flat = images.reshape(len(images), -1)
    return [bytes([*image, label]) for image, label in zip(flat, labels, strict=True)]


def test_it_is_listed_first_and_is_the_only_one_that_is_shipped():
    assert ZOO[0] is ENTRY
    assert ENTRY.name == "digits_resnet26.DIGITS"
    assert [entry for entry in ZOO if entry.url is None] == [ENTRY]
    assert [entry for entry in ZOO if shipped_dataset(entry) is not None] == [ENTRY]


def test_it_is_returned_without_network_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(httpx, "stream", lambda *_, **__: pytest.fail("the network was asked"))
    cache = tmp_path / "zoo"
    assert fetch_zoo_checkpoint(ENTRY, cache, base_url="http://127.0.0.1:9") == WEIGHTS
    assert not cache.exists()


def test_the_file_is_small_and_named_after_its_digest():
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert ENTRY.sha256_prefix == digest[:8]
    assert ENTRY.file_name == f"digits_resnet26-{digest[:8]}.safetensors"
    assert WEIGHTS.stat().st_size < 1_000_000
    assert len(list(SHIPPED_FOLDER.glob("*.safetensors"))) == 1, "an older file was left behind"


def test_the_inspection_of_strangers_files_accepts_both(tmp_path):
    facts = inspect_checkpoint(WEIGHTS, tmp_path / "canonical")
    assert (facts.architecture, facts.architecture_found) == ("digits_resnet26", True)
    assert (facts.format, facts.num_classes, facts.ignored) == ("safetensors", NUM_CLASSES, ())

    shipped = shipped_dataset(ENTRY)
    found = inspect_dataset(shipped, tmp_path / "canonical", num_classes=facts.num_classes)
    assert (found.num_train, found.num_test) == (1797 - NUM_TEST, NUM_TEST)
    assert (found.image_shape, found.num_classes) == ((8, 8, 1), NUM_CLASSES)


def test_the_published_accuracy_is_the_measured_one(model, dataset):
    measured = evaluate(model, dataset.x_test, dataset.y_test, ENTRY.preprocessing)
    assert measured.num_images == NUM_TEST
    assert measured.top1_percent == pytest.approx(ENTRY.published_top1, abs=0.05)
    assert measured.top1_percent >= 97.5


def test_the_statistics_are_far_from_the_constant_that_guards_them(model):
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 25
    # Each running statistic has forgotten its start, and eps adds less than 1 % to any variance.
    assert all(norm.num_batches_tracked >= 1000 for norm in norms)
    assert all((norm.running_var > 100 * norm.eps).all() for norm in norms)


def test_the_images_are_scikit_learns_and_each_lies_in_one_part_only(dataset):
    digits = load_digits()
    # round(value * 255 / 16) in whole numbers; only the value 8 is a tie, and goes up to even.
    pixels = (digits.images.astype(int) * 255 + 8) // 16
    train = rows(dataset.x_train, dataset.y_train)
    test = rows(dataset.x_test, dataset.y_test)

    assert not {row[:-1] for row in train} & {row[:-1] for row in test}
    assert sorted(train + test) == sorted(rows(pixels, digits.target))


def test_each_class_has_the_same_share_of_both_parts(dataset):
    per_class = np.bincount(load_digits().target)
    in_test = np.bincount(dataset.y_test, minlength=NUM_CLASSES)
    assert (np.abs(in_test - per_class * NUM_TEST / 1797) < 1).all()


def test_the_preprocessing_is_that_of_the_training_pixels(dataset):
    pixels = torch.from_numpy(dataset.x_train).double() / 255
    assert ENTRY.preprocessing.mean == (round(pixels.mean().item(), 4),)
    assert ENTRY.preprocessing.std == (round(pixels.std(correction=0).item(), 4),)
