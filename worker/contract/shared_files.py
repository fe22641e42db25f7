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

CONNECT_SECONDS, READ_SECONDS, MAX_TRIES = 5, 60, 3
"""How long, and how often, a store is asked before it counts as away."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"max_attempts": MAX_TRIES, "mode": "standard"},
        },
    }
}

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
            ValueError: files would appear there before they are whole, or its driver is missing.
        """
        protocol = url.partition("://")[0]
        if "://" not in url or protocol in _NOT_ATOMIC:
            raise ValueError(
                f"MOMENTUM_STORE_URL is {url!r}; give s3://bucket/prefix, or leave it out to keep "
                "files in MOMENTUM_DATA_DIR (which may be on a shared disk)"
            )
        try:
            self._files, root = fsspec.core.url_to_fs(
                url, **(_DEFAULTS.get(protocol, {}) | dict(options or {}))
            )
        except (ImportError, ValueError) as error:
            raise ValueError(f"MOMENTUM_STORE_URL is {url!r}: {error}") from error
        self._root = str(root).rstrip("/")

    def put(self, path: Path, name: str) -> None:
        """Send a file.

        Raises:
            FileNotFoundError: there is none at `path`.
            StoreUnavailableError: it may not have arrived.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        with _asking(is_there=True):
            self._files.put_file(str(path), self._place(name))

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

    def make_bucket(self) -> None:
        """Make the bucket, if it is not there.

        Raises:
            StoreUnavailableError: that is not allowed, or no answer came.
        """
        bucket = self._root.partition("/")[0]
        with _asking(is_there=True):
            if not self._files.exists(bucket):
                self._files.mkdir(bucket)

    def check(self) -> None:
        """Ask whether there is such a bucket.

        Raises:
            StoreUnavailableError: no answer came.
        """
        with _asking(is_there=True):
            self._files.info(self._root.partition("/")[0])

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"


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
