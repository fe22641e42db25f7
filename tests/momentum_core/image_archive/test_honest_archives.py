"""Honest archives, as ordinary programs write them, become arrays that numpy reads."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard

from momentum_core.checkpoint import DatasetFacts, Limits, read_dataset
from momentum_core.errors import CheckpointError
from momentum_core.image_archive import ImageForm
from tests.corpus import archive_files
from tests.corpus.image_files import folder_of, honest_jpeg, honest_png, honest_webp, pixels


def images(num_train: int = 12, num_test: int = 4) -> dict[str, bytes]:
    return archive_files.images(num_train, num_test, "ab")


def tar_of(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as archive:
        folders = {name.rpartition("/")[0] for name in files}
        for name in sorted(folders - {""}):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1.5
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            archive.mkdir(folder)
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def streamed_zip_of(files: dict[str, bytes]) -> bytes:
    """Sizes behind the content, as a program writes them that cannot go back."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, piece) -> int:
            self.written += piece
            return len(piece)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bytes(pipe.written)


def gzipped_in_two(content: bytes) -> bytes:
    return gzip.compress(content[:700]) + gzip.compress(content[700:])


FORMS = {
    "zip": ("zip", lambda files: zip_of(files)),
    "zip, stored": ("zip", lambda files: zip_of(files, zipfile.ZIP_STORED)),
    "zip, streamed": ("zip", streamed_zip_of),
    "tar of POSIX": ("tar", lambda files: tar_of(files, tarfile.USTAR_FORMAT)),
    "tar of GNU": ("tar", lambda files: tar_of(files, tarfile.GNU_FORMAT)),
    "tar of pax": ("tar", lambda files: tar_of(files)),
    "tar.gz": ("tar.gz", lambda files: tar_of(files, mode="w:gz")),
    "tar.gz in two members": ("tar.gz", lambda files: gzipped_in_two(tar_of(files))),
    "tar.zst": ("tar.zst", lambda files: zstandard.compress(tar_of(files))),
    "tar.zst at level 22": ("tar.zst", lambda files: zstandard.compress(tar_of(files), 22)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_archive_gives_the_same_arrays(form, inspect):
    kind, pack = FORMS[form]
    sent = pack(images())
    facts, target = inspect(sent, num_classes=2)
    assert facts == DatasetFacts(
        num_train=12,
        num_test=4,
        image_shape=(8, 8, 1),
        num_classes=2,
        sha256=hashlib.sha256(sent).hexdigest(),
        format=kind,
        classes=("a", "b"),
        class_counts=(6, 6),
    )
    assert DatasetFacts.from_json(facts.to_json()) == facts
    arrays = np.load(target)
    assert np.array_equal(arrays["y_train"], np.arange(12) % 2)
    assert np.array_equal(arrays["y_test"], np.arange(4) % 2)
    for part, first in (("train", 0), ("test", 100)):
        for index, image in enumerate(arrays[f"x_{part}"]):
            assert np.array_equal(image[..., 0], pixels(first + index))


def test_the_canonical_file_is_read_by_the_strict_reader_and_is_always_the_same(inspect):
    _, target = inspect(folder_of(images()))
    first = target.read_bytes()
    read, plain = read_dataset(target), np.load(target)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(read, name), plain[name])
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
    _, target = inspect(zip_of(images()))
    assert target.read_bytes() == first


def test_a_folder_packed_by_the_system_tar_is_read(inspect, tmp_path):
    for name, content in images().items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = ["tar", "-czf", "../packed.tgz", "."]
    subprocess.run(command, cwd=tmp_path / "pack", check=True)
    facts, _ = inspect((tmp_path / "packed.tgz").read_bytes())
    assert (facts.format, facts.class_counts) == ("tar.gz", (6, 6))


LAYOUTS = {
    "folder around it": {f"my data/{name}": raw for name, raw in images().items()},
    "two folders around it": {f"a/b/{name}": raw for name, raw in images().items()},
    "val instead of test": {name.replace("test/", "val/"): raw for name, raw in images().items()},
    "deeper files": {name.replace("/0", "/more/0"): raw for name, raw in images().items()},
    "hidden files beside": images()
    | {"__MACOSX/train/a/._000.png": b"x", "train/a/.DS_Store": b"x", "train/Thumbs.db": b"x"},
    "test images without labels": images()
    | {"val/a/1.png": honest_png(1), "val/b/1.png": honest_png(2)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_usual_layouts_are_understood(layout, inspect):
    for pack in (zip_of, tar_of):
        facts, _ = inspect(pack(LAYOUTS[layout]))
        assert (facts.num_train, facts.num_test, facts.classes) == (12, 4, ("a", "b"))


def test_test_images_without_folders_give_way_to_the_validation_images(inspect):
    files = {name.replace("test/", "val/"): raw for name, raw in images().items()}
    facts, _ = inspect(zip_of(files | {f"test/{i}.png": honest_png(i) for i in range(9)}))
    assert (facts.num_train, facts.num_test, facts.num_ignored) == (12, 4, 9)


def test_without_a_test_folder_every_fifth_image_of_a_class_is_held_back(inspect):
    files = {f"{name}/{index:02}.png": honest_png(index) for name in "ba" for index in range(11)}
    for each in (files, dict(reversed(files.items())), {f"x/{k}": v for k, v in files.items()}):
        facts, target = inspect(zip_of(each))
        assert (facts.num_train, facts.num_test, facts.classes) == (18, 4, ("a", "b"))
        held_back = {image.tobytes() for image in np.load(target)["x_test"]}
        assert held_back == {pixels(4).tobytes(), pixels(9).tobytes()}


def test_names_beyond_ascii_and_of_any_length_are_kept(inspect):
    long = "train/ä" + "/" + "n" * 200
    files = {f"{long}{index}.png": honest_png(index) for index in range(6)}
    files |= {f"train/<b>/{index}.png": honest_png(index) for index in range(6)}
    files |= {"test/ä/1.png": honest_png(1)}
    for pack in (zip_of, tar_of, lambda files: tar_of(files, tarfile.GNU_FORMAT)):
        facts, _ = inspect(pack(files))
        assert (facts.classes, facts.class_counts) == (("<b>", "ä"), (6, 6))


def test_all_three_kinds_of_images_are_read_whatever_their_names(inspect):
    files = {f"train/a/{index}": honest_png(index) for index in range(4)}
    files |= {f"train/b/{index}.png": honest_webp(index) for index in range(4)}
    files |= {"test/a/1.jpeg": honest_png(3), "test/b/1.png": honest_jpeg(3)}
    facts, target = inspect(zip_of(files))
    assert (facts.num_train, facts.num_test, facts.num_bad_images) == (8, 2, 0)
    arrays = np.load(target)
    assert np.array_equal(arrays["x_train"][..., 0], [pixels(i % 4) for i in range(8)])
    assert np.array_equal(arrays["x_test"][0, ..., 0], pixels(3))


def test_a_few_bad_images_are_named_and_left_out(inspect):
    files = images(36, 6)
    bad = {"train/a/000.png": b"GIF89a", "train/b/001.png": honest_png()[:40]}
    facts, target = inspect(zip_of(files | bad | {"train/a/notes.txt": b"x"}))
    assert (facts.num_train, facts.num_test, facts.class_counts) == (34, 6, (17, 17))
    assert facts.num_bad_images == 2
    assert facts.bad_images == (
        "'train/a/000.png': it is no JPEG, PNG or WebP image",
        "'train/b/001.png': it is cut off",
    )
    assert (facts.num_ignored, facts.ignored) == (1, ("'train/a/notes.txt'",))
    assert np.array_equal(np.load(target)["x_train"][0, ..., 0], pixels(2))


def test_more_than_a_few_bad_images_are_a_refusal(inspect):
    files = images(16, 4)
    for count, is_accepted in ((2, True), (3, False)):
        bad = {f"train/{'ab'[i % 2]}/{i:03}.png": b"GIF89a" for i in range(count)}
        if is_accepted:
            assert inspect(zip_of(files | bad))[0].num_bad_images == count
            continue
        with pytest.raises(CheckpointError, match="more than 2 of 20 images") as caught:
            inspect(zip_of(files | bad))
        assert caught.value.code == "bad_image"


def test_a_class_all_of_whose_images_are_bad_is_a_refusal(inspect):
    files = {f"train/a/{index:02}.png": honest_png(index) for index in range(30)}
    files |= {"train/b/1.png": b"GIF89a", "test/a/1.png": honest_png()}
    with pytest.raises(CheckpointError, match="no training image of class 'b'"):
        inspect(zip_of(files))


def test_the_networks_number_of_classes_must_be_met(inspect):
    with pytest.raises(CheckpointError, match=r"2 classes, the network 3;.*--finetune"):
        inspect(folder_of(images()), num_classes=3)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(max_file_bytes=100), "upload_too_large"),
        (Limits(max_array_bytes=1000), "expands_too_large"),
        (Limits(max_unpacked_bytes=1000), "expands_too_large"),
        (Limits(max_archive_files=15), "too_many_files"),
        (Limits(max_archive_depth=2), "unsafe_path"),
        (Limits(max_classes=1), "invalid_data"),
        (Limits(max_image_bytes=60), "image_too_large"),
        (Limits(max_image_pixels=63), "image_too_large"),
        (Limits(max_image_side=7), "image_too_large"),
    ],
    ids=str,
)
def test_limits_can_be_set(limits, code, inspect):
    for content in (folder_of(images()), gzip.compress(tar_of(images()))):
        with pytest.raises(CheckpointError) as caught:
            inspect(content, limits=limits)
        assert caught.value.code == code


def test_an_npz_is_told_from_an_archive_of_images(inspect):
    from tests.corpus.npz_files import honest_npz

    facts, target = inspect(honest_npz(), num_classes=3)
    assert (facts.format, facts.num_train) == ("npz", 12)
    assert target.stat().st_size == 0


def test_a_plain_tar_may_be_longer_than_its_end(inspect):
    facts, _ = inspect(tar_of(images()) + bytes(20 * 512))
    assert facts.num_train == 12


@pytest.mark.shared_data
def test_a_published_folder_with_a_broken_image_is_read(shared_data, inspect, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(shared_data / "hymenoptera", "hymenoptera_data")
    facts, target = inspect(file.getvalue(), ImageForm(side=64, resize_side=72))
    assert (facts.classes, facts.num_train, facts.num_test) == (("ants", "bees"), 244, 153)
    [bad] = facts.bad_images
    assert "imageNotFound.gif" in bad
    assert read_dataset(target).x_test.shape == (153, 64, 64, 3)


@pytest.mark.parametrize("name", ["zip_folder", "tar", "tar_gz", "tar_zst"])
def test_the_archives_that_the_corpus_starts_from_are_accepted(name, inspect):
    facts, _ = inspect(getattr(archive_files, f"honest_{name}")(), num_classes=10)
    assert (facts.num_train, facts.num_test, facts.num_bad_images) == (20, 10, 0)
