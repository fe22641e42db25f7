"""Labels that are not in the folders' names: shards of WebDataset, and images without any."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import webdataset

from momentum_core.checkpoint import read_dataset
from momentum_core.errors import CheckpointError
from tests.corpus import archive_files
from tests.corpus.image_files import folder_of, honest_png, pixels


def shard(samples: list[dict[str, object]]) -> bytes:
    """Write samples as the library of WebDataset does."""
    file = io.BytesIO()
    with webdataset.TarWriter(file, encoder=True) as writer:
        for sample in samples:
            writer.write(sample)
    return file.getvalue()


def sample(number: int, key: str, label: int | str | None) -> dict[str, object]:
    found: dict[str, object] = {"__key__": key, "png": honest_png(number), "json": {"n": number}}
    return found if label is None else found | {"cls": str(label)}


def test_shards_of_webdataset_are_read_with_their_numbers_as_labels(inspect):
    """Class 2 has no image: numbers are labels, not names to be counted."""
    sent = shard(
        [sample(i, f"train/{i:04}", (0, 1, 3)[i % 3]) for i in range(12)]
        + [sample(100 + i, f"val/{i:04}", 3) for i in range(4)]
    )
    facts, target = inspect(sent, num_classes=10)
    assert (facts.num_classes, facts.classes) == (4, ("0", "1", "2", "3"))
    assert (facts.num_train, facts.num_test, facts.class_counts) == (12, 4, (4, 4, 0, 4))
    arrays = np.load(target)
    assert arrays["y_train"].tolist() == [0, 1, 3] * 4
    assert arrays["y_test"].tolist() == [3] * 4
    assert np.array_equal(arrays["x_test"][1, ..., 0], pixels(101))


def test_the_order_of_the_members_does_not_matter(inspect):
    samples = [sample(i, f"train/{i}", i % 2) for i in range(8)]
    samples += [sample(i, f"test/{i}", i % 2) for i in range(20, 24)]
    with tarfile.open(fileobj=io.BytesIO(shard(samples))) as archive:
        members = {one.name: archive.extractfile(one).read() for one in archive.getmembers()}
    classes_first = sorted(members.items(), key=lambda one: not one[0].endswith(".cls"))
    _, target = inspect(folder_of(dict(classes_first)))
    labels = [i % 2 for i in range(8)]
    assert np.load(target)["y_train"].tolist() == labels


def test_shards_without_parts_are_split_class_by_class(inspect):
    sent = shard([sample(i, f"{i:04}", ("bee", "ant")[i % 2]) for i in range(20)])
    facts, target = inspect(sent, num_classes=2)
    assert (facts.classes, facts.class_counts, facts.num_test) == (("ant", "bee"), (8, 8), 4)
    arrays = np.load(target)
    # Of each class the fifth and the tenth, as with folders.
    held_back = {image.tobytes() for image in arrays["x_test"]}
    assert held_back == {pixels(i).tobytes() for i in (8, 9, 18, 19)}
    assert arrays["y_train"][0] == 1


def test_numbers_are_told_from_names_and_zeros_in_front_do_not_count(inspect):
    sent = shard([sample(i, f"{i:04}", f"00{i % 12}") for i in range(60)])
    facts, _ = inspect(sent)
    assert facts.classes == tuple(map(str, range(12)))
    sent = shard([sample(i, f"{i:04}", f"{i % 3:012d}") for i in range(30)])
    assert inspect(sent)[0].class_counts == (8, 8, 8)
    sent = shard([sample(i, f"{i:04}", ("7", "seven")[i % 2]) for i in range(20)])
    assert inspect(sent)[0].classes == ("7", "seven")


def test_a_sample_without_a_class_is_left_out_and_named(inspect):
    samples = [sample(i, f"{i:04}", i % 2) for i in range(20)] + [sample(50, "0050", None)]
    facts, _ = inspect(shard(samples))
    assert facts.num_train + facts.num_test == 20
    assert "'0050.png'" in facts.ignored


def test_the_networks_classes_must_hold_the_numbers(inspect):
    sent = shard([sample(i, f"{i:04}", i % 5) for i in range(50)])
    assert inspect(sent, num_classes=5)[0].num_classes == 5
    with pytest.raises(
        CheckpointError, match=r"highest class number is 4, .* has 4 classes \(0 to 3\)"
    ):
        inspect(sent, num_classes=4)


UNLABELLED = {
    "no folder": {f"{i:02}.png": honest_png(i) for i in range(10)},
    "one folder": {f"photos/{i:02}.png": honest_png(i) for i in range(10)},
    "folders around it": {f"a/b/{i:02}.png": honest_png(i) for i in range(10)},
    "one folder and files beside": {f"photos/{i:02}.png": honest_png(i) for i in range(10)}
    | {"readme.txt": b"x"},
}


@pytest.mark.parametrize("layout", UNLABELLED)
def test_images_that_no_folder_tells_apart_have_no_labels(layout, inspect):
    facts, target = inspect(folder_of(UNLABELLED[layout]), num_classes=10)
    assert (facts.num_train, facts.num_test) == (8, 2)
    assert (facts.num_classes, facts.classes, facts.class_counts) == (0, (), ())
    assert sorted(np.load(target)) == ["x_test", "x_train"]
    read = read_dataset(target)
    assert read.y_train is None
    assert {image.tobytes() for image in read.x_test} == {pixels(i).tobytes() for i in (4, 9)}


def test_parts_without_class_folders_have_no_labels(inspect):
    files = {f"train/{i}.png": honest_png(i) for i in range(5)}
    files |= {f"test/{i}.png": honest_png(i) for i in range(20, 23)}
    for around in ("", "my photos/"):
        each = {around + name: content for name, content in files.items()}
        facts, target = inspect(folder_of(each), num_classes=10)
        assert (facts.num_train, facts.num_test, facts.num_classes) == (5, 3, 0)
        assert np.array_equal(np.load(target)["x_test"][0, ..., 0], pixels(20))


def test_loose_images_beside_class_folders_are_named_and_left_out(inspect):
    files = archive_files.images(12, 4, "ab")
    facts, _ = inspect(folder_of(files | {"train/loose.png": honest_png()}))
    assert (facts.classes, facts.ignored) == (("a", "b"), ("'train/loose.png'",))
