from __future__ import annotations

import hashlib

import numpy as np
import pytest

from momentum_core.checkpoint import Limits, read_dataset, read_dataset_facts
from momentum_core.errors import DataError
from tests.corpus.npz_files import arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("label_type", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint64])
def test_arrays_are_read_as_numpy_reads_them(save, label_type, tmp_path):
    sent = arrays()
    sent["y_train"] = sent["y_train"].astype(label_type)
    save(tmp_path / "sent.npz", **sent, note=np.arange(3))
    read = read_dataset(tmp_path / "sent.npz")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(read, name), sent[name])
    assert read.x_train.dtype == np.uint8
    assert read.y_train.dtype == np.int64


def test_facts_are_counted(tmp_path):
    path = tmp_path / "sent.npz"
    np.savez(path, **arrays())
    facts = read_dataset_facts(path, num_classes=3)
    assert (facts.num_train, facts.num_test, facts.num_classes) == (12, 6, 3)
    assert facts.image_shape == (8, 8, 3)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert type(facts).from_json(facts.to_json()) == facts


def test_labels_may_be_missing_if_they_all_are(tmp_path):
    sent = arrays()
    path = tmp_path / "sent.npz"
    np.savez(path, x_train=sent["x_train"], x_test=sent["x_test"])
    read = read_dataset(path)
    assert (read.y_train, read.y_test) == (None, None)
    assert np.array_equal(read.x_test, sent["x_test"])
    facts = read_dataset_facts(path, num_classes=3)
    assert (facts.num_train, facts.num_classes) == (12, 0)
    np.savez(path, x_train=sent["x_train"], x_test=sent["x_test"], y_test=sent["y_test"])
    with pytest.raises(DataError, match="lacks y_train"):
        read_dataset(path)


def test_column_major_and_grey_images_are_read(tmp_path):
    sent = arrays()
    sent["x_train"] = np.asfortranarray(sent["x_train"][..., :1])
    sent["x_test"] = sent["x_test"][..., :1]
    np.savez(tmp_path / "sent.npz", **sent)
    read = read_dataset(tmp_path / "sent.npz")
    assert np.array_equal(read.x_train, sent["x_train"])
    assert read.x_train.flags.c_contiguous
    assert read.x_train.flags.writeable
    assert read.x_test.flags.writeable


def test_a_label_beyond_the_networks_classes_is_refused(tmp_path):
    np.savez(tmp_path / "sent.npz", **arrays())
    with pytest.raises(DataError, match="a label is 2, but the network has 2 classes") as caught:
        read_dataset_facts(tmp_path / "sent.npz", num_classes=2)
    assert caught.value.code == "invalid_data"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(max_file_bytes=100), "upload_too_large"),
        (Limits(max_array_bytes=100), "expands_too_large"),
    ],
)
def test_limits_can_be_set(limits, code, tmp_path):
    np.savez(tmp_path / "sent.npz", **arrays())
    for read in (read_dataset, read_dataset_facts):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "sent.npz", limits=limits)
        assert caught.value.code == code


@pytest.mark.shared_data
def test_the_shared_data_set_is_accepted(shared_data):
    facts = read_dataset_facts(shared_data / "cifar10.npz", num_classes=10)
    assert (facts.num_train, facts.num_test) == (10_000, 5_000)
    assert (facts.image_shape, facts.num_classes) == ((32, 32, 3), 10)
