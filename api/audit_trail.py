"""Notes every request that changes something, and every one whose key does not allow it.

Each request gets an id, which its answer names (`X-Request-Id`). What it did is noted before the
answer is sent: whoever was told of a change finds it in the log.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.caller import Caller
from api.headers import REQUEST_ID_HEADER
from worker.contract.audit_log import AuditLog, Deed, Outcome
from worker.contract.origin import REQUEST_ID, begin
from worker.contract.tracing import begin_traced

MAX_REFUSALS, REFUSAL_SECONDS = 100, 60.0
"""Refusals of one caller that are noted in such a time; of the others, how many they were."""

MAX_TARGET_CHARACTERS, MAX_ADDRESS_CHARACTERS = 255, 64
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_REFUSED = (401, 403)
_ID_HEADER = REQUEST_ID_HEADER.lower().encode()

logger = logging.getLogger(__name__)


def note_caller(request: Request, caller: Caller) -> None:
    """Say who asks."""
    request.state.caller = caller


def note_target(request: Request, path: str) -> None:
    """Say what a request has made, where its answer has no `Location`."""
    request.state.target = path


class AuditTrail:
    """ASGI middleware that notes what requests did."""

    def __init__(self, app: ASGIApp, log: AuditLog) -> None:
        """Wrap `app`; write to `log`."""
        self._app = app
        self._log = log
        self._refusals: dict[str | None, _Refusals] = {}
        # Random once, then counted: a random number for each request costs a seventh of a poll.
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id = f"{self._prefix}{next(self._numbers):016x}"
        state["request_id"] = request_id
        begin(**{REQUEST_ID: request_id})
        begin_traced()
        is_answered = False

        async def note(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = [*message["headers"], (_ID_HEADER, request_id.encode())]
                status = message["status"]
                if scope["method"] not in _SAFE_METHODS or status in _REFUSED:
                    location = Headers(raw=message["headers"]).get("location")
                    await self._note(scope, status, location)
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:
            if not is_answered:
                await self._note(scope, 500, None)
            raise

    async def _note(self, scope: Scope, status: int, location: str | None) -> None:
        route, is_refused = scope.get("route"), status in _REFUSED
        # Of a method that the path does not know, nothing comes.
        if route is None or scope["method"] not in route.methods:
            return
        if scope["method"] in _SAFE_METHODS and not is_refused:
            return
        caller: Caller | None = scope["state"].get("caller")
        key_id = None if caller is None else caller.key_id
        num_omitted = 0
        if is_refused:
            refusals = self._refusals.setdefault(key_id, _Refusals())
            if not refusals.take():
                return
            num_omitted = refusals.take_omitted()
        deed = Deed(
            request_id=scope["state"]["request_id"],
            tenant=None if caller is None else caller.tenant,
            key_id=key_id,
            address=scope["client"] and scope["client"][0][:MAX_ADDRESS_CHARACTERS],
            operation=route.operation_id or route.name,
            target=_target(scope, location),
            status=status,
            outcome=_outcome(status),
            num_omitted=num_omitted,
        )
        if scope["state"].get("record_is_away"):
            # Who asked need not wait for the record once more.
            logger.error("not in the audit log: %s", deed)
            return
        try:
            await run_in_threadpool(self._log.append, deed)
        except SQLAlchemyError as error:
            # What was done is done; the log of this process is what is left.
            logger.error("not in the audit log (%s): %s", type(error).__name__, deed)


class _Refusals:
    """How many refusals of a caller are noted; a flood of them must not fill the record."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._num_noted = 0
        self._num_omitted = 0

    def take(self) -> bool:
        """Return whether one more is to be noted."""
        if time.monotonic() - self._since >= REFUSAL_SECONDS:
            self._since, self._num_noted = time.monotonic(), 0
        if self._num_noted >= MAX_REFUSALS:
            self._num_omitted += 1
            return False
        self._num_noted += 1
        return True

    def take_omitted(self) -> int:
        """Return how many were not noted since the last one that was."""
        omitted, self._num_omitted = self._num_omitted, 0
        return omitted


def _target(scope: Scope, location: str | None) -> str:
    target = location or scope["state"].get("target") or scope["path"]
    target = target.removeprefix(scope.get("root_path", "")).partition("?")[0]
    target = target[:MAX_TARGET_CHARACTERS]
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in target)


def _outcome(status: int) -> Outcome:
    if status in _REFUSED:
        return Outcome.REFUSED
    return Outcome.SUCCEEDED if status < 400 else Outcome.FAILED
