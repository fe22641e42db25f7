"""Data sets in the operator's folder, of every form that is read there."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
import webdataset

from momentum_core.checkpoint import Limits, read_dataset
from momentum_core.errors import DataError
from momentum_core.image_archive import ImageForm
from tests.corpus import archive_files
from tests.corpus.image_files import folder_of, honest_png, pixels
from worker.registered_datasets import RegisteredDatasets

SMALL = ImageForm(side=8, resize_side=8, channels=1)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "datasets"
    path.mkdir()
    return path


@pytest.fixture
def prepare(folder, tmp_path):
    """Prepare a data set; return the facts and the arrays."""

    def run(name: str, *, num_classes=None, form=SMALL, limits=None):
        target = tmp_path / "data.npz"
        sets = RegisteredDatasets(folder, limits or Limits())
        facts, path = sets.prepare(name, target, num_classes=num_classes, form=form)
        return facts, read_dataset(path)

    return run


def unpack(files: dict[str, bytes], where) -> None:
    for name, content in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def deny(monkeypatch, operation: str, name: str) -> None:
    """Have an operation on paths of this name be refused: as root one could read everything."""
    usual = getattr(Path, operation)

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return usual(path)

    monkeypatch.setattr(Path, operation, refuse)


def test_class_folders_give_what_their_archive_gives(folder, prepare):
    files = archive_files.images(12, 4, "ab")
    unpack(files, folder / "photos")
    (folder / "packed.zip").write_bytes(folder_of(dict(sorted(files.items()))))
    facts, arrays = prepare("photos", num_classes=2)
    assert (facts.format, facts.classes, facts.class_counts) == ("folder", ("a", "b"), (6, 6))
    packed, same = prepare("packed.zip", num_classes=2)
    assert packed.format == "zip"
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(arrays, name), getattr(same, name))


def test_links_are_followed_and_what_leads_nowhere_is_passed_over(folder, prepare, tmp_path):
    unpack(archive_files.images(12, 4, "ab"), tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/train/a/gone.png").symlink_to(tmp_path / "nothing")
    facts, _ = prepare("linked")
    assert (facts.num_train, facts.num_bad_images) == (12, 0)


@pytest.mark.parametrize("names", ["train-{}.tar val-{}.tar", "train/{}.tar val/{}.tar"])
def test_shards_of_webdataset_are_one_data_set(names, folder, prepare):
    """Keys begin anew in each shard: they are told apart by the shard."""
    (folder / "shards").mkdir()
    for pattern, start, count in zip(names.split(), (0, 100), (6, 2), strict=True):
        for shard in range(2):
            path = folder / "shards" / pattern.format(f"{shard:06}")
            path.parent.mkdir(exist_ok=True)
            with webdataset.TarWriter(str(path)) as writer:
                for i in range(count):
                    image = honest_png(start + count * shard + i)
                    writer.write({"__key__": f"{i:04}", "png": image, "cls": str(i % 2)})
    facts, arrays = prepare("shards", num_classes=2)
    assert (facts.num_train, facts.num_test, facts.num_classes) == (12, 4, 2)
    assert arrays.y_train.tolist() == [0, 1] * 6
    assert np.array_equal(arrays.x_train[7, ..., 0], pixels(7))
    assert np.array_equal(arrays.x_test[3, ..., 0], pixels(103))


def test_a_shard_that_is_broken_is_named(folder, prepare):
    (folder / "shards").mkdir()
    (folder / "shards/train-0.tar").write_bytes(b"no tar at all")
    with pytest.raises(DataError, match=r"data set 'shards': train-0\.tar: .*neither an archive"):
        prepare("shards")


ALL_IN_ONE = {f"{name}/{i}.png": honest_png(i) for name in "ab" for i in range(5)}
LOOSE = {f"{i}.png": honest_png(i) for i in range(5)}


@pytest.mark.parametrize(
    ("packed", "classes", "counts"),
    [
        ({"shard-0.tar": LOOSE, "shard-1.tar": LOOSE}, (), (8, 2)),
        ({"train-0.tar": LOOSE, "train-1.tar": LOOSE, "val-0.tar": LOOSE}, (), (10, 5)),
        ({"part0.zip": ALL_IN_ONE, "part1.zip": ALL_IN_ONE}, ("a", "b"), (16, 4)),
        ({"train.tar": ALL_IN_ONE, "val.tar": ALL_IN_ONE}, ("a", "b"), (10, 10)),
        (
            {
                "train-0.tar": {f"train/{name}": raw for name, raw in ALL_IN_ONE.items()},
                "test-0.tar": {f"test/{name}": raw for name, raw in ALL_IN_ONE.items()},
            },
            ("a", "b"),
            (10, 10),
        ),
    ],
    ids=str,
)
def test_the_name_of_a_shard_is_no_class(packed, classes, counts, folder, prepare):
    (folder / "set").mkdir()
    for name, files in packed.items():
        (folder / "set" / name).write_bytes(folder_of(files))
    facts, _ = prepare("set")
    assert (facts.classes, (facts.num_train, facts.num_test)) == (classes, counts)


def test_an_ordinary_folder_may_be_called_like_one_of_torchvisions(folder, prepare):
    unpack(archive_files.images(12, 4, "ab"), folder / "dtd")
    assert prepare("dtd")[0].format == "folder"


def test_what_cannot_be_read_is_named(folder, prepare, monkeypatch):
    unpack(archive_files.images(36, 6, "ab"), folder / "photos")
    deny(monkeypatch, "read_bytes", "000.png")
    facts, _ = prepare("photos")
    assert facts.num_bad_images == 2  # of the training and of the test images
    assert "000.png': it cannot be read: Permission denied" in facts.bad_images[0]


def test_a_class_file_that_cannot_be_read_is_named(folder, prepare, monkeypatch):
    unpack({f"{i}.png": honest_png(i) for i in range(10)}, folder / "shard")
    unpack({f"{i}.cls": b"1" for i in range(10)}, folder / "shard")
    deny(monkeypatch, "read_bytes", "7.cls")
    with pytest.raises(DataError, match=r"class file '7\.cls': it cannot be read: Permission"):
        prepare("shard")


def test_one_entry_that_cannot_be_looked_at_hides_no_other(folder, monkeypatch):
    for name in ("good", "odd"):
        (folder / name).mkdir()
    deny(monkeypatch, "is_dir", "odd")
    assert RegisteredDatasets(folder, Limits()).names() == ("good",)


def test_arrays_stay_as_they_are(folder, prepare):
    images = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    np.savez(folder / "arrays.npz", x_train=images, x_test=images[:2])
    facts, arrays = prepare("arrays.npz")
    assert (facts.format, facts.num_classes) == ("npz", 0)
    assert np.array_equal(arrays.x_train, images)
    assert (folder / "arrays.npz").exists()


def test_images_without_labels(folder, prepare):
    unpack({f"{i}.png": honest_png(i) for i in range(10)}, folder / "photos")
    facts, arrays = prepare("photos", num_classes=1000)
    assert (facts.num_classes, arrays.y_train) == (0, None)


def test_names_are_what_jobs_can_say(folder, caplog):
    for name in ("b", "a", ".hidden", "two words", "ä"):
        (folder / name).mkdir()
    (folder / "c.tar").write_bytes(b"")
    (folder / "readme.md").write_bytes(b"")
    sets = RegisteredDatasets(folder, Limits())
    assert sets.names() == ("a", "b", "c.tar")
    (folder / "d").mkdir()
    assert sets.names() == ("a", "b", "c.tar", "d")
    sets.look()
    assert "no data sets: 'readme.md', 'two words', '\\xe4'; these are" in caplog.text
    assert RegisteredDatasets(None, Limits()).names() == ()
    nothing = RegisteredDatasets(folder / "nothing", Limits())
    assert nothing.names() == ()
    nothing.look()
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("name", ["gone", "../secret", ".hidden", "a/b"])
def test_only_what_is_registered_can_be_named(name, folder, prepare, tmp_path):
    unpack(archive_files.images(12, 4, "ab"), tmp_path / "secret")
    unpack(archive_files.images(12, 4, "ab"), folder / ".hidden")
    unpack(archive_files.images(12, 4, "ab"), folder / "a/b")
    with pytest.raises(DataError, match="no data set") as caught:
        prepare(name)
    assert caught.value.code == "unknown_dataset"


def test_what_is_wrong_with_it_is_said_as_of_an_archive(folder, prepare):
    unpack(archive_files.images(12, 4, "ab"), folder / "photos")
    with pytest.raises(DataError, match=r"data set 'photos': .* 2 classes, the network 3"):
        prepare("photos", num_classes=3)
    with pytest.raises(DataError, match="more than 5 files") as caught:
        prepare("photos", limits=Limits(max_archive_files=5))
    assert caught.value.code == "too_many_files"
    (folder / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        prepare("empty")
    assert caught.value.code == "no_images"


# --- what torchvision downloads, written here byte for byte as it lies on disk


def write_idx(path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def test_mnist_as_torchvision_keeps_it(folder, prepare):
    rng = np.random.default_rng(0)
    parts = {"train": 20, "t10k": 5}
    images = {part: rng.integers(0, 256, (count, 28, 28)) for part, count in parts.items()}
    for part, count in parts.items():
        raw = folder / "digits/MNIST/raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 3)
    form = ImageForm(side=28, resize_side=28, channels=1)
    facts, arrays = prepare("digits", num_classes=10, form=form)
    assert (facts.format, facts.num_train, facts.num_test) == ("torchvision", 20, 5)
    assert (facts.num_classes, facts.classes[:2]) == (10, ("0 - zero", "1 - one"))
    assert np.array_equal(arrays.x_train[..., 0], images["train"])
    assert arrays.y_test.tolist() == [0, 1, 2, 0, 1]
    assert facts.class_counts[:4] == (7, 7, 6, 0)
    with pytest.raises(DataError, match="10 classes, the network 4"):
        prepare("digits", num_classes=4, form=form)
    # The folder itself may be what is registered.
    (folder / "MNIST").symlink_to(folder / "digits/MNIST")
    assert prepare("MNIST", form=form)[0].num_train == 20


def test_cifar10_as_torchvision_keeps_it(folder, prepare, monkeypatch):
    """Its files are compared with their published MD5, which these cannot have."""
    base = folder / "cifar/cifar-10-batches-py"
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 10, 3, 32, 32), dtype=np.uint8)
    files = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(files):
        batch = {"data": images[number].reshape(10, -1), "labels": list(range(10))}
        (base / name).write_bytes(pickle.dumps(batch))
    names = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(DataError, match=r"torchvision cannot read its data set CIFAR10 .*corrupt"):
        prepare("cifar")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    form = ImageForm(side=32, resize_side=32, channels=3)
    facts, arrays = prepare("cifar", num_classes=10, form=form)
    assert (facts.num_train, facts.num_test, list(facts.classes)) == (50, 10, names)
    assert np.array_equal(arrays.x_train, images[:5].reshape(50, 3, 32, 32).transpose(0, 2, 3, 1))
    assert np.array_equal(arrays.y_test, np.arange(10))


def test_a_library_that_torchvision_needs_is_named(folder, prepare, monkeypatch):
    def lacks(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    (folder / "flowers/flowers-102").mkdir(parents=True)
    (folder / "flowers/flowers-102/imagelabels.mat").write_bytes(b"")
    monkeypatch.setattr(torchvision.datasets, "Flowers102", lacks)
    with pytest.raises(DataError, match="Flowers102 needs scipy") as caught:
        prepare("flowers")
    assert caught.value.code == "library_missing"


def test_gzip_is_read_as_in_an_archive(folder, prepare):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in archive_files.images(12, 4, "ab").items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (folder / "photos.tar.gz").write_bytes(gzip.compress(file.getvalue()))
    assert prepare("photos.tar.gz")[0].format == "tar.gz"
