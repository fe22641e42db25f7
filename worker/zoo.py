"""Fetching the zoo's files: checked against the published digest, then against the recorded one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx

from momentum_core.durable_files import new_file, write_all
from momentum_core.errors import CheckpointError
from worker.contract.zoo import ZooEntry

SHIPPED_FOLDER = Path(__file__).resolve().parent / "zoo_entries"
"""Where the entries lie that the project ships."""

MAX_BYTES = 2 << 30
_CHUNK_BYTES = 1 << 20
_DIGEST_SUFFIX = ".sha256"
_HEADERS = {"Accept-Encoding": "identity"}
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def fetch_zoo_checkpoint(entry: ZooEntry, cache_dir: Path, *, base_url: str | None = None) -> Path:
    """Return the file of a zoo entry; download it if it is not in the folder.

    The first time, the SHA-256 must begin as the published name says; all of it is then written
    beside the file, and required from then on. A file may also be put into the folder by hand.

    Args:
        entry: what to fetch.
        cache_dir: the zoo's folder (setting `MOMENTUM_ZOO_DIR`); made if it is not there.
        base_url: a mirror of the published folder; None takes the published address.

    Raises:
        CheckpointError: `zoo_unavailable`, when the file is neither there nor to be had;
            `checksum_mismatch`, when it is not the published one or changed since its first use.
    """
    if entry.local_file is not None:
        return _copy_of(entry, Path(entry.local_file))
    if entry.url is None:
        shipped = SHIPPED_FOLDER / entry.file_name
        _check_prefix(entry, _sha256(shipped))
        return shipped
    cache_dir.mkdir(parents=True, exist_ok=True)
    path = cache_dir / entry.file_name
    if not path.exists():
        url = entry.url
        if base_url is not None and not entry.is_on_hub:
            url = f"{base_url.rstrip('/')}/{entry.file_name}"
        _download(entry, url, path)
    _check_digest(entry, path, _sha256(path))
    return path


def _copy_of(entry: ZooEntry, path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(
            f"the copy of {entry.name} in the folder set by MOMENTUM_HUB_DIR lacks {path.name}; "
            "add the file, or remove the copy to fetch it from the hub",
            code="zoo_unavailable",
        )
    return path


def shipped_dataset(entry: ZooEntry) -> Path | None:
    """Return the data set that an entry brings with it, or None if it brings none.

    Args:
        entry: any entry of the zoo.
    """
    return None if entry.data_file is None else SHIPPED_FOLDER / entry.data_file


def _check_digest(entry: ZooEntry, path: Path, digest: str) -> None:
    """Check the published prefix and the recorded digest; record it at the first time."""
    _check_prefix(entry, digest)
    record = _record_of(path)
    if not record.exists():
        with new_file(record) as descriptor:
            write_all(descriptor, f"{digest}  {path.name}\n".encode())
        return
    if record.read_text().split(maxsplit=1)[:1] != [digest]:
        raise CheckpointError(
            f"the zoo file {path.name} is not the one that was first used: its SHA-256 differs "
            f"from {record.name} beside it; restore it, or remove both files from the folder "
            "set by MOMENTUM_ZOO_DIR to fetch it anew",
            code="checksum_mismatch",
        )


def _check_prefix(entry: ZooEntry, digest: str) -> None:
    if not digest.startswith(entry.sha256_prefix):
        raise CheckpointError(
            f"the zoo file {entry.file_name} is not the published one: its SHA-256 begins with "
            f"{digest[:8]}, not {entry.sha256_prefix[:8]}; if it was put into the folder set by "
            "MOMENTUM_ZOO_DIR by hand, replace it, otherwise try again",
            code="checksum_mismatch",
        )


def _download(entry: ZooEntry, url: str, path: Path) -> None:
    """Download; the file gets its name only once it was checked."""
    with new_file(path) as descriptor:
        _check_digest(entry, path, _stream(entry, url, descriptor))


def _stream(entry: ZooEntry, url: str, descriptor: int) -> str:
    """Write the body of `url` to an open file; return its SHA-256."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        # A hub leads to where it stores files; of other addresses, whatever answers elsewhere is
        # not the address.
        with httpx.stream(
            "GET",
            url,
            headers=_HEADERS | (_hub_headers() if entry.is_on_hub else {}),
            timeout=_TIMEOUT,
            follow_redirects=entry.is_on_hub,
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _unavailable(entry, f"{answer.url.host} answered {answer.status_code}")
            for piece in answer.iter_raw(_CHUNK_BYTES):
                num_bytes += len(piece)
                if num_bytes > MAX_BYTES:
                    raise _unavailable(entry, f"{answer.url.host} sends more than it should")
                digest.update(piece)
                write_all(descriptor, piece)
    except httpx.HTTPError as error:
        raise _unavailable(entry, f"the download failed: {type(error).__name__}") from error
    return digest.hexdigest()


def _hub_headers() -> dict[str, str]:
    """Return what a hub is told: the token of this machine's user, if there is one."""
    from huggingface_hub.utils._headers import build_hf_headers

    return dict(build_hf_headers())


def _unavailable(entry: ZooEntry, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of {entry.name} are not at hand ({reason}); put the file {entry.file_name} "
        f"from {entry.url} into the folder set by MOMENTUM_ZOO_DIR, or let the worker reach "
        "that address, then try again",
        code="zoo_unavailable",
    )


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + _DIGEST_SUFFIX)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
