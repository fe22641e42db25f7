"""One view of a zip and of a tar archive: its members in order, under names that are safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.checkpoint.zip_directory import ZipEntry, read_directory, read_entry
from momentum_core.image_archive.compression import Compression, unpacked
from momentum_core.image_archive.tar_members import TarHeader, TarStream, starts_tar

ArchiveKind = Literal["zip", "tar", "tar.gz", "tar.zst", "folder", "torchvision"]

_MAX_PART_CHARACTERS = 255
_COMPRESSED: tuple[tuple[bytes, ArchiveKind, Compression], ...] = (
    (b"\x1f\x8b", "tar.gz", "gzip"),
    (b"\x28\xb5\x2f\xfd", "tar.zst", "zstd"),
)
REMEDY = (
    "send a zip, tar, tar.gz or tar.zst of images, with a folder for each class (train/ants/1.jpg, "
    "train/bees/2.jpg, test/ants/3.jpg) or class files beside them (0.jpg, 0.cls), or an .npz of "
    "numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a folder in an archive.

    Attributes:
        parts: its path; no part is empty, `.` or `..`, and all are printable.
        is_folder: whether it is a folder.
        num_bytes: bytes of a file.
        read: returns them; only until the next member is asked for.
    """

    parts: tuple[str, ...]
    is_folder: bool
    num_bytes: int
    read: Callable[[], bytes]

    @property
    def path(self) -> str:
        """The path in one piece."""
        return "/".join(self.parts)


class Archive(Protocol):
    """An archive whose members can be gone through, from the first, as often as one likes."""

    @property
    def kind(self) -> ArchiveKind:
        """Its format."""

    def members(self) -> Iterator[Member]:
        """Yield the members in their order.

        Raises:
            CheckpointError: with the code of the rule that the archive breaks.
        """


def open_archive(source: ByteSource, limits: Limits) -> Archive:
    """Find an archive's format.

    Raises:
        CheckpointError: `unsupported_format`, or the code of the rule that a zip archive breaks.
    """
    head = source.read_up_to(0, 512)
    if head.startswith(b"PK"):
        return ZipArchive(source, limits)
    for start, kind, compression in _COMPRESSED:
        if head.startswith(start):
            return _TarArchive(source, limits, kind, compression)
    if starts_tar(head):
        return _TarArchive(source, limits, "tar", "none")
    raise refuse(
        "unsupported_format", f"the data are neither an archive of images nor an .npz; {REMEDY}"
    )


class ZipArchive:
    """A zip archive; its directory is read and checked at once."""

    kind: ArchiveKind = "zip"

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self.entries = read_directory(
            source, max_entries=limits.max_archive_files, too_many="too_many_files"
        )

    def members(self) -> Iterator[Member]:
        """Yield the members in the order of the directory."""
        num_bytes = 0
        for entry in self.entries:
            num_bytes += entry.num_bytes
            _check_growth(entry, num_bytes, self._limits)
            if entry.is_link:
                raise refuse(
                    "unsafe_path",
                    f"entry {shown(entry.name)} is a link; pack the files themselves",
                )
            yield Member(
                safe_parts(entry.name, self._limits),
                entry.name.endswith("/"),
                entry.num_bytes,
                lambda entry=entry: read_entry(  # type: ignore[misc]
                    self._source, entry, max_bytes=self._limits.max_image_bytes
                ),
            )


class _TarArchive:
    def __init__(
        self, source: ByteSource, limits: Limits, kind: ArchiveKind, compression: Compression
    ) -> None:
        self._source = source
        self._limits = limits
        self._compression = compression
        self.kind = kind

    def members(self) -> Iterator[Member]:
        stream = TarStream(unpacked(self._source, self._compression, self._limits))
        for index, header in enumerate(stream.headers()):
            if index >= self._limits.max_archive_files:
                raise refuse(
                    "too_many_files",
                    f"the archive has more than {self._limits.max_archive_files} members, "
                    "the limit",
                )
            yield self._member(header, stream)

    def _member(self, header: TarHeader, stream: TarStream) -> Member:
        parts = safe_parts(header.name, self._limits)
        return Member(parts, header.is_folder, header.num_bytes, stream.read)


def safe_parts(name: str, limits: Limits) -> tuple[str, ...]:
    """Take a member's path apart; no file is ever made under it, and still it must be harmless.

    Raises:
        CheckpointError: `unsafe_path`.
    """
    is_odd = name.startswith("/") or "\\" in name or name[1:2] == ":"
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if is_odd or ".." in parts or len(parts) > limits.max_archive_depth:
        raise refuse(
            "unsafe_path",
            f"member {shown(name)} is absolute, leads out of the archive, has a backslash, or is "
            f"more than {limits.max_archive_depth} folders deep; pack relative paths with /",
        )
    if not all(part.isprintable() and len(part) <= _MAX_PART_CHARACTERS for part in parts):
        raise refuse(
            "unsafe_path",
            f"the name {shown(name)} is too long or has characters that cannot be shown; rename it",
        )
    return parts


def _check_growth(entry: ZipEntry, num_bytes: int, limits: Limits) -> None:
    if entry.num_bytes > limits.max_expansion * (entry.packed_bytes + 1024):
        raise refuse(
            "expands_too_large",
            f"entry {shown(entry.name)} unpacks to more than {limits.max_expansion} times its "
            "size; pack the images without compression",
        )
    if num_bytes > limits.max_unpacked_bytes:
        raise refuse(
            "expands_too_large",
            f"the archive unpacks to more than {limits.max_unpacked_bytes} bytes, the limit",
        )
