"""GET /jobs/{id}, which programs ask for over and over: answered by the shortest way.

FastAPI's solver of dependencies takes several times as long as the answer itself, and so does a
thread of its own for each look at the record. Here those who ask at the same time share one look;
who is not answered here (another method, an odd id) comes to the documented route, whose answer is
made by the same function.
"""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from api.conditional import is_unchanged
from api.dependencies import ID, Service, identified, job_not_found
from api.polling import RETRY_SECONDS
from api.problems import Problem, answer_database_error, answer_problem
from worker.contract.key_store import Scope as KeyScope

_PREFIX = "/jobs/"


async def answer_poll(
    job_id: str, service: Service, *, tenant: str, if_none_match: str | None
) -> Response:
    """Return a job as it is now, or that it is still the same."""
    try:
        if not ID.fullmatch(job_id):
            raise LookupError
        revision, state = await service.looks.look(job_id, tenant=tenant)
        headers = {"ETag": f'"{revision}"', "Cache-Control": "no-cache"}
        if not state.is_final:
            headers["Retry-After"] = str(RETRY_SECONDS)
        if is_unchanged(headers["ETag"], if_none_match):
            return Response(status_code=304, headers=headers)
        body = service.bodies.held(job_id, revision)
        if body is None:
            body, revision = await run_in_threadpool(
                service.bodies.get, job_id, revision, tenant=tenant
            )
            headers["ETag"] = f'"{revision}"'  # it may have changed since the look
    except LookupError:
        raise job_not_found() from None
    return Response(body, media_type="application/json", headers=headers)


class JobPolling:
    """ASGI middleware that answers GET of a job; all else it passes on."""

    # What the audit log asks of a route.
    methods = frozenset({"GET"})
    operation_id = "get_job"

    def __init__(self, app: ASGIApp, service: Service) -> None:
        """Wrap `app`; ask `service`."""
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        job_id = _asked_for(scope)
        if job_id is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self
        try:
            response = await self._answer(Request(scope), job_id)
        except Problem as problem:
            response = answer_problem(problem)
        except SQLAlchemyError as error:
            response = answer_database_error(error)
        await response(scope, receive, send)

    async def _answer(self, request: Request, job_id: str) -> Response:
        caller = await identified(request, self._service)
        caller.needs(KeyScope.READ)
        return await answer_poll(
            job_id,
            self._service,
            tenant=caller.tenant,
            if_none_match=request.headers.get("if-none-match"),
        )


def _asked_for(scope: Scope) -> str | None:
    if scope["type"] == "http" and scope["method"] == "GET":
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(_PREFIX) and ID.fullmatch(path, len(_PREFIX)):
            return path[len(_PREFIX) :]
    return None
