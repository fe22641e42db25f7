"""A folder at hand in the form of an archive: its files, and what lies in the shards among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.npz_dataset import open_source
from momentum_core.checkpoint.refusal import refuse
from momentum_core.errors import CheckpointError
from momentum_core.image_archive.archive import ArchiveKind, Member, open_archive, safe_parts
from momentum_core.image_archive.member_paths import is_part_folder, path_of

_SHARD = re.compile(r"(?P<stem>.*)\.(zip|tar|tar\.gz|tgz|tar\.zst)", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file, a folder, or (with the path that stands before those of its members) a shard."""

    parts: tuple[str, ...]
    path: Path
    is_folder: bool = False
    is_shard: bool = False
    """Its parts are then the folders that its members are in."""


class FolderArchive:
    """A folder of the operator's; links in it are followed.

    A member of a shard `train-0001.tar` (or `train/0001.tar`) is one of the training part.

    Args:
        folder: where the files are; what comes into it later is not seen.
        limits: how many there may be, and how deep.

    Raises:
        CheckpointError: `unsafe_path` or `too_many_files`.
    """

    kind: ArchiveKind = "folder"

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._limits = limits
        self._entries: list[_Entry] = []
        for entry in _entries(folder, limits):
            self._entries.append(entry)
            _check_number(len(self._entries), limits)

    def members(self) -> Iterator[Member]:
        """Yield files and folders in the order of their paths; empty folders may be classes."""
        count = 0
        for number, entry in enumerate(self._entries):
            for member in self._members_of(entry, number):
                count += 1
                _check_number(count, self._limits)
                yield member

    def _members_of(self, entry: _Entry, number: int) -> Iterator[Member]:
        try:
            if entry.is_folder:
                yield Member(entry.parts, True, 0, bytes)
            elif not entry.is_shard:
                size = entry.path.stat().st_size
                yield Member(entry.parts, False, size, partial(_content, entry.path))
            else:
                with open_source(entry.path.resolve()) as source:
                    for member in open_archive(source, self._limits).members():
                        yield _moved(member, entry, number)
        except OSError as error:
            raise refuse(
                "invalid_data", f"{entry.path.name} cannot be read: {error.strerror or error}"
            ) from None
        except CheckpointError as error:
            raise CheckpointError(f"{entry.path.name}: {error}", code=error.code) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse("bad_image", f"it cannot be read: {error.strerror or error}") from None


def _entries(folder: Path, limits: Limits) -> Iterator[_Entry]:
    for where, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        inside = Path(where).relative_to(folder)
        for name in folders:
            yield _Entry(_parts(inside / name, limits), Path(where) / name, is_folder=True)
        for name in sorted(files):
            path = Path(where) / name
            if not path.is_file():  # a link to nothing, a socket
                continue
            if shard := _SHARD.fullmatch(name):
                _parts(inside / name, limits)  # as strict as with any file
                folders_of_shard = _with_part(_parts(inside, limits), shard["stem"])
                yield _Entry(folders_of_shard, path, is_shard=True)
            else:
                yield _Entry(_parts(inside / name, limits), path)


def _parts(path: Path, limits: Limits) -> tuple[str, ...]:
    return safe_parts(path.as_posix(), limits)


def _with_part(inside: tuple[str, ...], stem: str) -> tuple[str, ...]:
    """Put a shard whose name begins with that of a part into the folder of the part."""
    word = _FIRST_WORD.match(stem)
    if word is None or not is_part_folder(word[0]) or any(map(is_part_folder, inside)):
        return inside
    return (*inside, word[0])


def _moved(member: Member, shard: _Entry, number: int) -> Member:
    """Put a member where its shard is; files of one name in several shards are told apart."""
    start = shard.parts
    if member.parts and is_part_folder(member.parts[0]):
        start = tuple(one for one in start if not is_part_folder(one))
    if member.is_folder or path_of(member) is None:
        return replace(member, parts=start + member.parts)
    *folders, name = member.parts
    return replace(member, parts=(*start, *folders, f"{number}-{name}"))


def _check_number(count: int, limits: Limits) -> None:
    if count > limits.max_archive_files:
        raise refuse(
            "too_many_files",
            f"the folder holds more than {limits.max_archive_files} files, the limit "
            "(max_archive_files of MOMENTUM_INTAKE_LIMITS)",
        )
