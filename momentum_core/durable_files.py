"""Files that appear complete or not at all, and are still there after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from momentum_core.failpoints import reach


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
        _sync(descriptor)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def move_file(source: Path, target: Path) -> None:
    """Sync a finished file and move it to another name on the same disk."""
    sync_file(source)
    os.replace(source, target)
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Make what is in a file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and sync it; its name is durable once its folder is synced."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        _sync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder for its owner only, and those above it; their names are durable afterwards."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    is_there = folder.is_dir()
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        # Also if it was there: whoever made it may not have come so far.
        sync_folder(folder.parent)
    except OSError:
        if not is_there:  # a folder above may be nobody's to read
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    # Of an error nothing is tried again: the system may have dropped what it could not write, and
    # would call the next attempt a success (PostgreSQL's "fsyncgate", 2018).
    reach("fsync")
    os.fsync(descriptor)


def write_all(descriptor: int, piece: bytes) -> None:
    """Write all of `piece`, however often the system takes only a part."""
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
