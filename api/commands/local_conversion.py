"""`momentum convert --local`: a job of a record of its own, done by one process, without a service.

It is what a service does, in a folder that is gone afterwards: the same intake, the same worker's
code, the same files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from api.client import ApiError, Event, JobRecord
from api.client.conversion import ZOO, data_by_name, missing_file, options_of
from api.client.records import read
from api.commands.exit_codes import exit_code_of_state
from api.commands.job_display import showing
from api.commands.local_names import local_names
from api.commands.output import print_json, print_pairs, say, short_id
from api.problems import Problem
from api.request_body import parse_request
from api.schemas.jobs import EventView, JobView
from api.submission import submit
from api.words import result_pairs
from momentum_core.durable_files import new_file
from momentum_core.errors import MomentumError
from worker.contract.database import open_database
from worker.contract.file_store import FileStore
from worker.contract.job import DEFAULT_TENANT
from worker.contract.job_store import JobStore
from worker.contract.lifeline import tied_command
from worker.contract.sandbox import SandboxError
from worker.contract.settings import Settings

POLL_SECONDS = 0.2
"""Between two looks at what the job does."""

STOP_SECONDS = 5.0


def convert_here(
    source: str,
    data: str | None,
    asked: dict[str, Any],
    *,
    labelled: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Convert in this command's own processes; end with the exit code of how the job ended.

    Args:
        source: a checkpoint's path, or `zoo:NAME`.
        data: a data set's path, `registered:NAME` (of this machine), or `synthetic:COUNT`.
        asked: the arguments of `options_of`.
        labelled: whether the data's labels count.
        output: folder for the files; else named as the job's id begins.
        as_json: print one JSON document.

    Raises:
        ApiError: files or options are refused, or the worker's process ended by itself.
    """
    import json

    request, files = _request(source, data, options_of(**asked), labelled=labelled)
    with (
        tempfile.TemporaryDirectory(prefix="momentum-") as folder,
        _refusals_as_errors(),
    ):
        place = _Place(Path(folder))
        job_id = place.submit(json.dumps(request).encode(), files)
        with place.working(job_id) as is_working:
            with showing(lambda: place.job(job_id), as_json=False, is_quiet=as_json) as on_event:
                for event in place.events(job_id, is_working):
                    on_event(event)
            job = place.job(job_id)
        paths = place.hand_out(job, output or Path(short_id(job.id)))
    if as_json:
        print_json(job.raw | {"files": [str(path) for path in paths]})
    else:
        say()
        print_pairs(result_pairs(job))
        for path in paths:
            say(str(path))
    raise typer.Exit(exit_code_of_state(job.state))


class _Place:
    """A record and a file store for one job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = FileStore(folder)
        settings = self._settings()
        self._store = JobStore(open_database(settings.database))
        self._limits = settings.limits
        self._log = folder / "worker.log"

    def submit(self, request: bytes, files: dict[str, Path]) -> str:
        """Check what is asked for and record it; return the job's id."""
        with self._files.temporary_folder() as folder:
            copies = {}
            for part, path in files.items():
                copies[part] = folder / part
                shutil.copyfile(path, copies[part])
            return submit(
                parse_request(request),
                checkpoint=copies.get("checkpoint"),
                data=copies.get("data"),
                tenant=DEFAULT_TENANT,
                store=self._store,
                files=self._files,
                names=local_names(),
                limits=self._limits,
            ).id

    @contextmanager
    def working(self, job_id: str) -> Iterator[subprocess.Popen[bytes]]:
        """Have a process do the job; it ends with the context."""
        settings = self._settings()
        environment = os.environ | {
            "MOMENTUM_DATA_DIR": str(self._folder),
            "MOMENTUM_ZOO_DIR": str(settings.zoo_folder),
            # Empty: as if they were not set.
            "MOMENTUM_DATABASE_URL": "",
            "MOMENTUM_BROKER_URL": "",
            "MOMENTUM_STORE_URL": "",
        }
        command = [sys.executable, "-P", "-m", "worker.run_one_job", job_id]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                tied_command(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )
        try:
            yield process
            process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def events(self, job_id: str, process: subprocess.Popen[bytes]) -> Iterator[Event]:
        """Yield what happens to the job until it has ended.

        Raises:
            ApiError: the process ended before the job did.
        """
        seen = 0
        while True:
            has_ended = process.poll() is not None  # before the look: what came last counts
            for found in self._store.events_of(job_id, after=seen):
                seen = found.number
                yield read(Event, EventView.of(found).model_dump(mode="json"))
            if self.job(job_id).is_final:
                return
            if has_ended:
                end = self._log.read_text(errors="replace").strip().splitlines()[-5:]
                raise ApiError(
                    "worker_lost",
                    f"the worker's process has ended ({process.returncode}) before its job: "
                    + " / ".join(end),
                )
            time.sleep(POLL_SECONDS)

    def job(self, job_id: str) -> JobRecord:
        """Return the job as a service would describe it."""
        job = self._store.get(job_id, tenant=DEFAULT_TENANT)
        view = JobView.of_all(job, self._store.artifacts_of(job_id), self._store.uploads_of(job))
        return read(JobRecord, view.model_dump(mode="json"))

    def hand_out(self, job: JobRecord, folder: Path) -> list[Path]:
        """Put the job's files into a folder."""
        paths = []
        if job.artifacts:
            folder.mkdir(parents=True, exist_ok=True)
        for artifact in job.artifacts:
            paths.append(folder / artifact.name)
            with (
                self._files.verified_path(artifact.sha256).open("rb") as stored,
                new_file(paths[-1]) as descriptor,
                os.fdopen(os.dup(descriptor), "wb") as file,
            ):
                shutil.copyfileobj(stored, file)
        return paths

    def _settings(self) -> Settings:
        usual = Settings()
        return Settings(
            data_dir=self._folder,
            zoo_dir=usual.zoo_folder,  # what is fetched is kept where a service finds it
            database_url=None,
            broker_url=None,
        )


def _request(
    source: str, data: str | None, options: dict[str, Any], *, labelled: bool
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the request, and the files that come with it."""
    request, files = dict(options), {}
    request.pop("worker", None)  # it is this machine, whatever it has
    if source.startswith(ZOO):
        request["source"] = {"zoo": source.removeprefix(ZOO)}
    else:
        files["checkpoint"] = _file(source, "source")
    by_name = None if data is None else data_by_name(data)
    if by_name is not None:
        request["data"] = by_name
    elif data is not None:
        files["data"] = _file(data, "data")
    if not labelled:
        request["data"] = request.get("data", {}) | {"labelled": False}
    return request, files


def _file(named: str, part: str) -> Path:
    path = Path(named).expanduser()
    if not path.is_file():
        raise missing_file(named, part)
    return path


@contextmanager
def _refusals_as_errors() -> Iterator[None]:
    """Raise what a service would answer with as the error that its client would make of it."""
    try:
        yield
    except Problem as problem:
        raise ApiError(
            problem.code, str(problem), status=problem.status, errors=problem.errors or ()
        ) from problem
    except MomentumError as error:
        raise ApiError(error.code, str(error), status=422) from error
    except SandboxError as error:
        raise ApiError("inspection_unavailable", str(error)) from error
