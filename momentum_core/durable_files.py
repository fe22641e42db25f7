"""Files that appear complete or not at all, and are still there after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(target: Path) -> Iterator[int]:
    """Open a temporary file beside `target`; sync it and give it its name when the body ends well.

    An older file of that name is replaced. If the body raises, nothing is left behind.

    Args:
        target: the file to make; its folder exists.

    Yields:
        A descriptor open for writing, closed afterwards.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        yield descriptor
        os.fsync(descriptor)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def move_file(source: Path, target: Path) -> None:
    """Sync a finished file and move it to another name on the same disk."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(source, target)
    sync_folder(target.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and sync it; its name is durable once its folder is synced."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, piece: bytes) -> None:
    """Write all of `piece`, however often the system takes only a part."""
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
