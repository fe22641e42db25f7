"""Errors as HTTP answers: `application/problem+json` with a stable `code` (RFC 9457)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.headers import REQUEST_ID_HEADER, SECURITY_HEADERS
from api.openapi import PROBLEM_TYPE, methods_of
from momentum_core.errors import MomentumError
from worker.contract.database import UNAVAILABLE
from worker.contract.sandbox import SandboxError
from worker.contract.shared_files import StoreUnavailableError

DATABASE_RETRY_SECONDS = STORE_RETRY_SECONDS = 5

logger = logging.getLogger(__name__)

_OTHER_TITLES = {460: "Checksum Mismatch"}
"""Of statuses that tus uses and HTTP does not have."""

_STATUS_OF_CODE = {
    "zoo_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "unsupported_format": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "upload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "stored_file_damaged": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Status of a `MomentumError` by its code; every other one is 422."""


class Problem(HTTPException):
    """An answer other than success; raised anywhere below a route.

    FastAPI passes exceptions of this base on where it would make its own of others.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the answer.

        Args:
            status: HTTP status.
            code: a stable word for programs.
            detail: what is wrong, what was given, what to do.
            errors: one entry for each wrong field: `pointer` (a JSON pointer) and `detail`.
            headers: further headers.
        """
        super().__init__(status, detail, headers)
        self.status = status
        self.code = code
        self.errors = errors

    def __str__(self) -> str:
        return self.detail


def storage_full() -> Problem:
    """Make the answer to what the disk has no room for."""
    return Problem(
        507,
        "storage_full",
        "the service has no room for the upload; have the operator free space in "
        "MOMENTUM_DATA_DIR, then send it again",
    )


def database_unavailable() -> Problem:
    """Make the answer to what cannot be recorded, or looked up."""
    return Problem(
        503,
        "database_unavailable",
        "the job record does not answer, so this may not have been done; try again in a few "
        "seconds, with the same Idempotency-Key if you sent one, and have the operator look at the "
        "database if that does not help",
        headers={"Retry-After": str(DATABASE_RETRY_SECONDS)},
    )


def storage_unavailable(error: StoreUnavailableError) -> Problem:
    """Make the answer to what needs an object store that does not answer."""
    return Problem(503, error.code, str(error), headers={"Retry-After": str(STORE_RETRY_SECONDS)})


def answer_database_error(error: SQLAlchemyError) -> JSONResponse:
    """Return the answer to a record that does not answer; raise what is a mistake of ours."""
    if not isinstance(error, UNAVAILABLE):
        raise error
    logger.error("the record does not answer: %s", error)
    return answer_problem(database_unavailable())


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""

    @app.exception_handler(Problem)
    def _(_: Request, problem: Problem) -> JSONResponse:
        return answer_problem(problem)

    @app.exception_handler(MomentumError)
    def _(_: Request, error: MomentumError) -> JSONResponse:
        status = _STATUS_OF_CODE.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY)
        return _answer(status, error.code, str(error))

    @app.exception_handler(StoreUnavailableError)
    def _(_: Request, error: StoreUnavailableError) -> JSONResponse:
        return answer_problem(storage_unavailable(error))

    @app.exception_handler(SandboxError)
    def _(_: Request, error: SandboxError) -> JSONResponse:
        logger.error("no file can be inspected: %s", error)
        return _answer(
            503,
            "inspection_unavailable",
            "this machine cannot inspect files safely, so it takes none; its log says why: "
            "have the operator mend that, then send the file again",
        )

    @app.exception_handler(ClientDisconnect)
    def _(request: Request, _error: ClientDisconnect) -> Response:
        logger.info("a client left before its request was whole: %s", request.method)
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(OSError)
    def _(_: Request, error: OSError) -> JSONResponse:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        return answer_problem(storage_full())

    @app.exception_handler(SQLAlchemyError)
    def _(request: Request, error: SQLAlchemyError) -> JSONResponse:
        request.state.record_is_away = isinstance(error, UNAVAILABLE)
        return answer_database_error(error)

    @app.exception_handler(RequestValidationError)
    def _(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"pointer": "/" + "/".join(map(str, one["loc"])), "detail": one["msg"]}
            for one in error.errors()
        ]
        detail = "; ".join(f"{one['pointer']}: {one['detail']}" for one in errors)
        return _answer(422, "invalid_request", detail, {"errors": errors})

    @app.exception_handler(HTTPException)
    def _(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        code = status.name.lower()
        detail = f"{error.detail}; GET /docs lists what there is"
        headers = dict(error.headers or {})
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # Routing knows the methods of the first route only.
            headers["Allow"] = ", ".join(
                methods_of(app, request.url.path.removeprefix(request.scope["root_path"]))
            )
        return _answer(status, code, detail, headers=headers)

    @app.exception_handler(Exception)
    def _(request: Request, error: Exception) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "none")
        logger.error("unexpected error in request %s", request_id, exc_info=error)
        return _answer(
            500,
            "internal_error",
            "an error of the service; its log says more; try again",
            # This answer is made outside of all middleware; after it uvicorn ends the connection,
            # which a client that keeps connections must be told.
            headers=SECURITY_HEADERS | {REQUEST_ID_HEADER: request_id, "Connection": "close"},
        )


def answer_problem(problem: Problem) -> JSONResponse:
    """Return a problem as an answer, for code below the routes' error handling."""
    extra = {"errors": problem.errors} if problem.errors else {}
    return _answer(problem.status, problem.code, str(problem), extra, problem.headers)


def _answer(
    status: int,
    code: str,
    detail: str,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    return JSONResponse(
        {
            "type": "about:blank",
            "title": _OTHER_TITLES.get(status) or HTTPStatus(status).phrase,
            "status": int(status),
            "code": code,
            "detail": detail,
            **(extra or {}),
        },
        status_code=status,
        media_type=PROBLEM_TYPE,
        headers=dict(headers or {}),
    )
