"""An object store that several machines share: S3, or whatever else fsspec speaks to.

A name appears in it whole or not at all, is never written twice, and is seen by everybody at once
(S3 promises so since 2020); nothing else is asked of it: no locks, no renaming, no appending.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from momentum_core.errors import MomentumError

CONNECT_SECONDS, READ_SECONDS, MAX_TRIES = 5, 30, 3
"""How long, and how often, a store is asked before it counts as away."""

PROBE_SECONDS = 3
"""The same where nothing is wanted but whether it is there."""

PART_BYTES, NUM_PARTS = 16 << 20, 2
"""Of a large file: what is sent at once, and held in memory for that."""


_NOT_ATOMIC = ("file", "local", "ftp", "sftp", "ssh", "smb")
"""Where half a file can be seen."""

logger = logging.getLogger(__name__)


class StoreUnavailableError(MomentumError):
    """The object store does not answer, or refuses."""

    def __init__(self) -> None:
        super().__init__(
            "the object store of the service does not answer, so this was not done; try again in "
            "a few seconds, and have the operator look at the store if that does not help",
            code="storage_unavailable",
        )


class StoreSettingError(MomentumError, ValueError):
    """The address or the options of the object store cannot be used."""

    code = "store_setting"


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file in the store."""

    name: str
    num_bytes: int
    modified_at: float
    """Seconds since 1970 by the store's clock."""


class SharedFiles:
    """The files below an address."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """Use a store; nothing is asked of it yet.

        Args:
            url: `s3://bucket/prefix`, or another address that fsspec knows.
            options: of fsspec's file system, as `endpoint_url`, `key` and `secret` of `s3`.

        Raises:
            StoreSettingError: half of a file could be seen there, or its driver is missing.
        """
        protocol = url.partition("://")[0]
        if "://" not in url or protocol in _NOT_ATOMIC:
            raise StoreSettingError(
                f"MOMENTUM_STORE_URL is {url!r}; give s3://bucket/prefix, or leave it out to keep "
                "files in MOMENTUM_DATA_DIR (which may be on a shared disk)"
            )
        try:
            self._files, root = _open(url, CONNECT_SECONDS, READ_SECONDS, MAX_TRIES, options)
            self._probe, _ = _open(url, PROBE_SECONDS, PROBE_SECONDS, 1, options)
        except (ImportError, ValueError, TypeError) as error:
            raise StoreSettingError(f"MOMENTUM_STORE_URL is {url!r}: {error}") from error
        self._root = str(root).rstrip("/")
        self._in_parts = {"chunksize": PART_BYTES} if protocol == "s3" else {}

    def put(self, path: Path, name: str) -> None:
        """Send a file.

        Raises:
            FileNotFoundError: there is none at `path`.
            StoreUnavailableError: it may not have arrived.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        with _asking(is_there=True):
            self._files.put_file(str(path), self._place(name), **self._in_parts)

    def put_part(self, file: BinaryIO, num_bytes: int, name: str) -> None:
        """Send the next bytes of an open file as a file of their own.

        Raises:
            StoreUnavailableError: they may not have arrived.
        """
        with _asking(is_there=True), self._files.open(self._place(name), "wb") as sink:
            left = num_bytes
            while left and (piece := file.read(min(left, 1 << 20))):
                sink.write(piece)
                left -= len(piece)

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to `path`.

        Raises:
            FileNotFoundError: it is not there.
            StoreUnavailableError: it cannot be had.
        """
        with _asking():
            self._files.get_file(self._place(name), str(path))

    def below(self, folder: str) -> list[SharedFile]:
        """Return the files whose name begins with `folder` and a slash, by name.

        Raises:
            StoreUnavailableError: it is not known.
        """
        with _asking(is_there=True):
            found: Mapping[str, Mapping[str, Any]] = self._files.find(
                self._place(folder), detail=True, refresh=True
            )
        start = len(self._root) + 1
        return sorted(
            (
                SharedFile(place[start:], int(info["size"]), _modified_at(info))
                for place, info in found.items()
                if info["type"] == "file"
            ),
            key=lambda one: one.name,
        )

    def drop(self, names: list[str]) -> None:
        """Remove files; those that are not there are none the less gone.

        Raises:
            StoreUnavailableError: some may be left.
        """
        for name in names:
            with _asking():
                try:
                    self._files.rm_file(self._place(name))
                except FileNotFoundError:
                    continue

    def check(self) -> None:
        """Ask for the bucket, and make it if it is not there.

        Raises:
            StoreUnavailableError: no answer came.
        """
        with _asking(is_there=True):
            bucket = self._root.partition("/")[0]
            if not self._probe.exists(bucket):
                self._probe.mkdir(bucket)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"


def _open(
    url: str, connect: float, read: float, tries: int, options: Mapping[str, Any] | None
) -> tuple[Any, str]:
    """Open a store; of S3 with a patience of our own."""
    defaults: dict[str, Any] = {}
    if url.startswith("s3://"):
        defaults = {
            "use_listings_cache": False,
            "max_concurrency": NUM_PARTS,
            "default_block_size": PART_BYTES,
            "config_kwargs": {
                "connect_timeout": connect,
                "read_timeout": read,
                "retries": {"max_attempts": tries, "mode": "standard"},
            },
        }
    files, root = fsspec.core.url_to_fs(url, **(defaults | dict(options or {})))
    files.retries = 1  # s3fs would try five times what was tried
    return files, str(root)


@contextmanager
def _asking(*, is_there: bool = False) -> Iterator[None]:
    """Make one error of all that a driver may raise; a full disk of ours stays one.

    Args:
        is_there: whether what is asked for, the bucket perhaps, must be there.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not is_there:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        logger.error("the object store does not answer, or refuses: %r", error)
        raise StoreUnavailableError from error


def _modified_at(info: Mapping[str, Any]) -> float:
    found = info.get("LastModified") or info.get("mtime") or info["created"]
    return found.timestamp() if isinstance(found, datetime) else float(found)
