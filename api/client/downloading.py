"""Downloads that go on where they stopped, and get their name only once their digest is right."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from api.client.effects import (
    Answer,
    Block,
    Close,
    ConnectionLostError,
    Op,
    Open,
    Read,
    ReadAll,
    Request,
    place,
)
from api.client.errors import CHECKSUM_MISMATCH, FILE_NOT_USABLE, ApiError, error_of
from api.client.jobs import get_job
from api.client.records import Artifact, JobRecord
from api.client.retrying import Failures, RetryPolicy, connection_failed, is_passing
from momentum_core.durable_files import move_file

WEIGHTS = "model.safetensors"

OnFileProgress = Callable[[str, int, int], None]
"""Told a file's name, how many of its bytes are there, and of how many."""


def download(
    policy: RetryPolicy,
    job_id: str,
    target: str | Path = ".",
    *,
    name: str = WEIGHTS,
    on_progress: OnFileProgress | None = None,
) -> Op[Path]:
    """Download one of a job's files.

    What an earlier download left unfinished, killed or not, is taken up. The file gets its name
    once its SHA-256 is the one that the job states; one that is there and right already stays.

    Args:
        target: a folder that is there, or the path of the file to make; an older file is replaced.
        name: which file, as in `record.artifacts`.
        on_progress: told the name, how many bytes are there, and of how many.

    Returns:
        The file's path.

    Raises:
        ApiError: the job has no such file (yet), the target cannot be written, the service does not
            answer, or the digest is wrong (`checksum_mismatch`).
    """
    job = yield from get_job(policy, job_id)
    path = Path(target).expanduser()
    artifact = yield from _find(policy, job, name)
    if path.is_dir():
        path /= _plain(artifact.name)
    return (yield from _fetch(policy, job, artifact, path, on_progress))


def download_all(
    policy: RetryPolicy,
    job_id: str,
    folder: str | Path,
    *,
    names: tuple[str, ...] = (),
    on_progress: OnFileProgress | None = None,
) -> Op[list[Path]]:
    """Download a job's files into a folder, as `download` does each of them.

    Args:
        folder: made if it is not there.
        names: which files; all of them if there are none.
        on_progress: told the name, how many bytes are there, and of how many.

    Returns:
        The files' paths.

    Raises:
        ApiError: as of `download`.
    """
    job = yield from get_job(policy, job_id)
    path = Path(folder).expanduser()
    if job.state == "succeeded" and not names:
        wanted = list(job.artifacts)
    else:
        wanted = []
        for name in names or (WEIGHTS,):
            wanted.append((yield from _find(policy, job, name)))
    yield Block(partial(_make_folder, path))
    paths = []
    for artifact in wanted:
        target = path / _plain(artifact.name)
        paths.append((yield from _fetch(policy, job, artifact, target, on_progress)))
    return paths


def _find(policy: RetryPolicy, job: JobRecord, name: str) -> Op[Artifact]:
    """Return one of a job's files; the service says why there is none."""
    for artifact in job.artifacts:
        if artifact.name == name:
            return artifact
    yield from _opened(policy, _request(job.id, name, {}))
    raise AssertionError("the service has a file that it does not list")


def _request(job_id: str, name: str, headers: dict[str, str]) -> Request:
    return Request(
        method="GET",
        path=place("jobs", job_id, "artifacts", name),
        headers={"Accept-Encoding": "identity"} | headers,
    )


def _plain(name: str) -> str:
    """Return a name that stays in its folder, whatever a service answers."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) is None:
        raise ApiError(FILE_NOT_USABLE, f"the job has a file named {name!r}; say where it is to go")
    return name


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from None


def _fetch(
    policy: RetryPolicy,
    job: JobRecord,
    artifact: Artifact,
    target: Path,
    on_progress: OnFileProgress | None,
) -> Op[Path]:
    def say(done: int) -> None:
        if on_progress is not None:
            on_progress(artifact.name, done, artifact.num_bytes)

    if (yield Block(partial(_is_there, target, artifact))):
        say(artifact.num_bytes)
        return target
    part: _Part = yield Block(partial(_Part, target, artifact))
    try:
        # What an earlier run left may be damaged; then all of it is fetched once more.
        for from_start in (False, True):
            was_empty = part.num_bytes == 0
            if from_start:
                yield Block(part.clear)
            yield from _fill(policy, job, artifact, part, say)
            if part.is_right():
                yield Block(part.finish)
                return target
            if was_empty:
                break
        yield Block(part.remove)
        raise ApiError(
            CHECKSUM_MISMATCH,
            f"{artifact.name} did not arrive as the service has it (SHA-256 {part.sha256} in place "
            f"of {artifact.sha256}); download it again",
        )
    finally:
        part.close()


def _fill(
    policy: RetryPolicy,
    job: JobRecord,
    artifact: Artifact,
    part: _Part,
    say: Callable[[int], None],
) -> Op[None]:
    """Fetch what is missing of a file."""
    failures = Failures(policy)
    say(part.num_bytes)
    while part.num_bytes < artifact.num_bytes:
        headers = {}
        if part.num_bytes:
            etag = f'"{artifact.sha256}"'
            headers = {"Range": f"bytes={part.num_bytes}-", "If-Range": etag}
        try:
            answer = yield from _opened(policy, _request(job.id, artifact.name, headers))
            if answer.status != 206 and part.num_bytes:
                yield Block(part.clear)
            while piece := (yield Read()):
                failures.clear()
                yield Block(partial(part.append, piece))
                say(part.num_bytes)
        except ConnectionLostError as lost:
            yield failures.pause(connection_failed(lost))
        else:
            if part.num_bytes < artifact.num_bytes:  # it ended early, and did not say so
                yield failures.pause(
                    connection_failed(ConnectionLostError("it ended early", was_sent=True))
                )
    yield Close()


def _opened(policy: RetryPolicy, request: Request) -> Op[Answer]:
    """Open an answer with success.

    Raises:
        ApiError: it is refused, or every try failed.
    """
    failures = Failures(policy)
    while True:
        try:
            answer: Answer = yield Open(request)
            if answer.status in (200, 206):
                return answer
            body: bytes = yield ReadAll()
        except ConnectionLostError as lost:
            error = connection_failed(lost)
        else:
            error = error_of(answer.status, answer.headers, body)
            if not is_passing(error):
                raise error
        yield failures.pause(error)


def _is_there(target: Path, artifact: Artifact) -> bool:
    try:
        if target.stat().st_size != artifact.num_bytes:
            return False
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except OSError:
        return False


class _Part:
    """The part of a file that is there; named by the digest, so that only its own rest is added."""

    def __init__(self, target: Path, artifact: Artifact) -> None:
        self._target = target
        self._artifact = artifact
        self._path = target.with_name(f".{target.name}.{artifact.sha256[:16]}.part")
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        try:
            self._file = open(self._path, "a+b")  # noqa: SIM115 (`close` closes it)
        except OSError as error:
            raise _unusable(target, error) from None
        _lock(self._file, target)
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            self._digest.update(piece)
            self.num_bytes += len(piece)
        if self.num_bytes > artifact.num_bytes:
            self.clear()

    @property
    def sha256(self) -> str:
        """Of what is there."""
        return self._digest.hexdigest()

    def is_right(self) -> bool:
        """Whether it is the file that the job states."""
        return self.sha256 == self._artifact.sha256

    def append(self, piece: bytes) -> None:
        """Add what arrived."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise _unusable(self._target, error) from None
        self._digest.update(piece)
        self.num_bytes += len(piece)

    def clear(self) -> None:
        """Begin anew."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def finish(self) -> None:
        """Make it durable and give it its name."""
        try:
            self._file.flush()
            move_file(self._path, self._target)
        except OSError as error:
            raise _unusable(self._target, error) from None

    def remove(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            os.unlink(self._path)

    def close(self) -> None:
        """Let go of it; what is there stays for the next time."""
        with suppress(OSError):
            self._file.close()


def _lock(file: Any, target: Path) -> None:
    """Keep two programs from writing the same part."""
    try:
        import fcntl
    except ImportError:
        return  # not on Windows, where the digest alone has to tell
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ApiError(
            FILE_NOT_USABLE, f"another program downloads {target} just now; wait for it"
        ) from None


def _unusable(path: Path, error: OSError) -> ApiError:
    return ApiError(FILE_NOT_USABLE, f"{path} cannot be written: {error.strerror}")
