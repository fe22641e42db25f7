"""The whole inspection of one open data set: an .npz as it is, or an archive made into one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.facts import DatasetFacts
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.npz_dataset import parse_dataset_facts
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.errors import CheckpointError
from momentum_core.image_archive.archive import Archive, Member, ZipArchive, open_archive
from momentum_core.image_archive.image_form import ImageForm
from momentum_core.image_archive.layout import Layout, find_layout
from momentum_core.image_archive.member_paths import TEST, TRAIN
from momentum_core.image_archive.npz_writer import NpzWriter
from momentum_core.image_archive.pixels import decode_image

MAX_NAMED = 20
"""Bad images and ignored files that are named."""

BAD_SHARE = 10
"""Of so many images one may be bad."""


def inspect_open_dataset(
    source: ByteSource, target: int, *, num_classes: int | None, form: ImageForm, limits: Limits
) -> DatasetFacts:
    """Check a data set; write the images of an archive as a canonical .npz.

    An .npz is checked and nothing is written: it is read as it was sent.

    Args:
        source: the file that was sent.
        target: descriptor of an empty file, open for writing.
        num_classes: outputs of the network, which the classes must match.
        form: what the images of an archive become.
        limits: how much the file may ask for.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
    """
    if source.num_bytes == 0:
        raise refuse("truncated_file", "the data file is empty; send it again")
    if source.num_bytes > limits.max_file_bytes:
        raise refuse(
            "upload_too_large",
            f"the data file has {source.num_bytes} bytes; the limit is {limits.max_file_bytes}",
        )
    archive = open_archive(source, limits)
    if isinstance(archive, ZipArchive) and any(
        entry.name.endswith(".npy") for entry in archive.entries
    ):
        return parse_dataset_facts(source, num_classes=num_classes, limits=limits)
    layout = find_layout(archive.members(), limits)
    return write_dataset(
        archive,
        layout,
        target,
        num_classes=num_classes,
        form=form,
        limits=limits,
        sha256=source.sha256(),
    )


def write_dataset(
    archive: Archive,
    layout: Layout,
    target: int,
    *,
    num_classes: int | None,
    form: ImageForm,
    limits: Limits,
    sha256: str | None = None,
) -> DatasetFacts:
    """Write the images of an archive as a canonical .npz.

    Args:
        archive: where they are.
        layout: which of its members they are.
        target: descriptor of an empty file, open for reading and writing.
        num_classes: outputs of the network, which the classes must match.
        form: what the images become.
        limits: how much they may ask for.
        sha256: what the facts name the data by; None takes that of the .npz.

    Raises:
        CheckpointError: with the code of the rule that the archive breaks.
    """
    _check_size(layout, num_classes, form, limits)
    images = _Images(archive, layout, form, limits)
    counts = _write(images, target, form)
    for label, name in enumerate(layout.classes):
        if not images.counts[label] and not layout.may_lack:
            raise refuse("invalid_data", f"no training image of class {shown(name)} can be read")
    ignored = layout.ignored
    return DatasetFacts(
        format=archive.kind,
        num_train=counts[TRAIN],
        num_test=counts[TEST],
        image_shape=(form.side, form.side, form.channels),
        num_classes=len(layout.classes),
        sha256=sha256 or ByteSource(target).sha256(),
        classes=layout.classes,
        class_counts=tuple(images.counts),
        num_bad_images=images.num_bad,
        bad_images=tuple(images.bad),
        num_ignored=len(ignored),
        ignored=tuple(shown(path) for path in ignored[:MAX_NAMED]),
    )


def _check_size(layout: Layout, num_classes: int | None, form: ImageForm, limits: Limits) -> None:
    found = len(layout.classes)
    if num_classes is not None and layout.is_numbered and found > num_classes:
        raise refuse(
            "invalid_data",
            f"the highest class number is {found - 1}, but the network has {num_classes} classes "
            f"(0 to {num_classes - 1}); give data for the classes of the network, or have it learn "
            "these (task finetune, on the command line --finetune)",
        )
    if num_classes is not None and not layout.is_numbered and found not in (0, num_classes):
        raise refuse(
            "invalid_data",
            f"the archive has {found} classes, the network {num_classes}; send one folder for "
            "each, named so that their order is that of the outputs, or have the network learn "
            "these classes (task finetune, on the command line --finetune)",
        )
    num_bytes = sum(layout.counts) * form.num_bytes
    if num_bytes > limits.max_array_bytes:
        raise refuse(
            "expands_too_large",
            f"{sum(layout.counts)} images of {form.side} x {form.side} pixels have {num_bytes} "
            f"bytes; the limit is {limits.max_array_bytes}: send fewer",
        )


@dataclass(slots=True)
class _Images:
    """Goes through an archive, decodes, and keeps count of what cannot be."""

    archive: Archive
    layout: Layout
    form: ImageForm
    limits: Limits
    counts: list[int] = field(init=False)
    labels: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    bad: list[str] = field(default_factory=list)
    num_bad: int = 0
    _first_bad: str = ""

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.layout.classes)

    def of(self, part: int) -> Iterator[bytes]:
        """Yield the pixels of each readable image of a part, in the archive's order."""
        for number, member in enumerate(self.archive.members()):
            if self.layout.parts[number] != part:
                continue
            try:
                pixels = self._decoded(member)
            except CheckpointError as error:
                if error.code not in ("bad_image", "image_too_large"):
                    raise
                self._note(member, error)
                continue
            label = self.layout.labels[number]
            self.labels[part].append(label)
            if label >= 0:
                self.counts[label] += part == TRAIN
            yield pixels
        if not self.labels[part]:
            raise refuse(
                self._first_bad or "no_images", f"no image can be read; {'; '.join(self.bad)}"
            )

    def _decoded(self, member: Member) -> bytes:
        if member.num_bytes > self.limits.max_image_bytes:
            raise refuse(
                "image_too_large",
                f"it has {member.num_bytes} bytes; the limit is {self.limits.max_image_bytes}",
            )
        return decode_image(member.read(), self.form, self.limits)

    def _note(self, member: Member, error: CheckpointError) -> None:
        """Remember a bad image; more than a few are a reason to refuse them all."""
        self.num_bad += 1
        self._first_bad = self._first_bad or error.code
        if len(self.bad) < MAX_NAMED:
            self.bad.append(f"{shown(member.path)}: {error}")
        num_images = sum(self.layout.counts)
        allowed = min(self.limits.max_bad_images, num_images // BAD_SHARE)
        if self.num_bad > allowed:
            raise refuse(
                self._first_bad,
                f"more than {allowed} of {num_images} images cannot be used; the first: "
                f"{'; '.join(self.bad[:3])}; mend or remove them",
            )


def _write(images: _Images, target: int, form: ImageForm) -> tuple[int, int]:
    """Write the canonical .npz, with labels if there are any; return the numbers of images."""
    writer = NpzWriter(target)
    counts = []
    for part, name in ((TRAIN, "train"), (TEST, "test")):
        tail = (form.side, form.side, form.channels)
        counts.append(writer.add(f"x_{name}", "|u1", images.of(part), tail))
        if images.layout.classes:
            labels = (struct.pack("<q", label) for label in images.labels[part])
            writer.add(f"y_{name}", "<i8", labels, ())
    writer.finish()
    return counts[0], counts[1]
