"""Data sets as torchvision downloads them: it reads its own files, here they become an archive."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchvision import datasets

from momentum_core.checkpoint.refusal import refuse
from momentum_core.errors import DataError
from momentum_core.image_archive.archive import ArchiveKind, Member
from momentum_core.image_archive.layout import Layout
from momentum_core.image_archive.member_paths import TEST, TRAIN


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class of torchvision's, and how it is asked for the two parts."""

    name: str
    marker: str
    """What lies in its root folder, and tells it from others."""
    train: dict[str, Any]
    test: dict[str, Any]


def _by_flag(name: str, marker: str) -> _Kind:
    return _Kind(name, marker, {"train": True}, {"train": False})


def _by_split(name: str, marker: str, train: str = "train") -> _Kind:
    return _Kind(name, marker, {"split": train}, {"split": "test"})


_KINDS = (
    _by_flag("CIFAR10", "cifar-10-batches-py"),
    _by_flag("CIFAR100", "cifar-100-python"),
    _by_flag("MNIST", "MNIST/raw"),
    _by_flag("FashionMNIST", "FashionMNIST/raw"),
    _by_flag("KMNIST", "KMNIST/raw"),
    _by_split("STL10", "stl10_binary"),
    _by_split("SVHN", "train_32x32.mat"),
    _by_split("Flowers102", "flowers-102/imagelabels.mat"),
    _by_split("OxfordIIITPet", "oxford-iiit-pet/annotations", train="trainval"),
    _by_split("Food101", "food-101/meta"),
    _by_split("DTD", "dtd/labels"),
    _by_split("FGVCAircraft", "fgvc-aircraft-2013b/data/variants.txt", train="trainval"),
)


def open_torchvision(folder: Path) -> TorchvisionArchive | None:
    """Open a folder if it is the root of a data set that torchvision knows, or lies right in it.

    Raises:
        DataError: it is one, and torchvision cannot read it; `library_missing` where it needs
            another library for that.
    """
    for kind in _KINDS:
        first, _, rest = kind.marker.partition("/")
        root = folder.parent if folder.name == first and (folder / rest).exists() else folder
        if (root / kind.marker).exists():
            return TorchvisionArchive(_opened(kind, root, kind.train, kind.test))
    return None


def _opened(kind: _Kind, root: Path, *parts: dict[str, Any]) -> list[Any]:
    make = getattr(datasets, kind.name)
    try:
        return [make(root, download=False, **part) for part in parts]
    except ImportError as error:
        raise DataError(
            f"torchvision's {kind.name} needs {error.name or error}, which this worker lacks; "
            "have the operator install it",
            code="library_missing",
        ) from None
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"torchvision cannot read its data set {kind.name} ({str(error)[:200]}); have the "
            "operator download it again",
            code="invalid_data",
        ) from None


class TorchvisionArchive:
    """A data set of torchvision in the form of an archive of PNG images.

    Attributes:
        layout: its parts and labels.
    """

    kind: ArchiveKind = "torchvision"

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        numbers = [[int(label) for label in _labels(part)] for part in parts]
        self.layout = Layout(
            classes=_class_names(parts[0], 1 + max(map(max, numbers))),
            is_numbered=False,
            may_lack=True,
            parts=array("b", [TRAIN] * len(numbers[0]) + [TEST] * len(numbers[1])),
            labels=array("i", [label for part in numbers for label in part]),
            counts=(len(numbers[0]), len(numbers[1])),
            ignored=(),
        )

    def members(self) -> Iterator[Member]:
        """Yield the training images, then the test images."""
        for name, images in zip(("train", "test"), self._parts, strict=True):
            for index in range(len(images)):
                yield Member((name, str(index)), False, 0, partial(_png, images, index))


def _labels(images: Any) -> Sequence[Any]:
    """Return all labels without decoding an image: each of `_KINDS` keeps a list of them."""
    [name] = [one for one in ("targets", "labels", "_labels") if hasattr(images, one)]
    return list(getattr(images, name))


def _class_names(images: Any, at_least: int) -> tuple[str, ...]:
    names = getattr(images, "classes", None) or ()
    return tuple(map(str, names if len(names) >= at_least else range(at_least)))


def _png(images: Any, index: int) -> bytes:
    try:
        image, file = images[index][0], io.BytesIO()
    except OSError as error:
        raise refuse("bad_image", f"torchvision cannot read it: {str(error)[:200]}") from None
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()
