"""When a request is worth sending again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass

from api.client.effects import Answer, ConnectionLostError, Op, Pause, Request, Send
from api.client.errors import CONNECTION_FAILED, ApiError, error_of

_BUSY = frozenset({429, 503})
"""The request was not carried out."""

_LOST_BEHIND_A_PROXY = frozenset({502, 504})
"""Nobody knows whether it was."""

_LASTING = frozenset({"quota_exceeded", "too_many_webhooks", "inspection_unavailable"})
"""Refusals that waiting does not change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How patient a client is."""

    max_tries: int = 6
    """Tries of a request in all; a transfer that gets ahead begins to count anew."""

    first_pause_seconds: float = 0.5
    """Doubled with each failure in a row; a random part of up to a half is taken off."""

    max_pause_seconds: float = 60.0
    """A service that wants a longer pause is not asked again."""


class Failures:
    """Failures in a row of one piece of work."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._count = 0

    def clear(self) -> None:
        """It got ahead."""
        self._count = 0

    def pause(self, error: ApiError) -> Pause:
        """Count a failure; return the pause before the next try.

        Raises:
            ApiError: `error`, when it is time to give up.
        """
        self._count += 1
        wanted = error.retry_after_seconds
        if self._count >= self._policy.max_tries or (wanted or 0) > self._policy.max_pause_seconds:
            raise error
        grown = self._policy.first_pause_seconds * 2.0 ** (self._count - 1)
        jittered = min(grown, self._policy.max_pause_seconds) * random.uniform(0.5, 1.0)
        return Pause(max(jittered, (wanted or 0.0) * random.uniform(1.0, 1.1)))


def exchange(request: Request, policy: RetryPolicy) -> Op[Answer]:
    """Send a request until it is answered with success.

    Raises:
        ApiError: it is refused, or every try failed.
    """
    failures = Failures(policy)
    while True:
        try:
            answer: Answer = yield Send(request)
        except ConnectionLostError as lost:
            error = connection_failed(lost)
            if lost.was_sent and not request.is_repeatable:
                raise error from lost
        else:
            if is_success(answer):
                return answer
            error = error_of(answer.status, answer.headers, answer.body)
            if not is_passing(error, is_repeatable=request.is_repeatable):
                raise error
        yield failures.pause(error)


def is_success(answer: Answer) -> bool:
    """Return whether the service did what it was asked."""
    return 200 <= answer.status < 300


def is_passing(error: ApiError, *, is_repeatable: bool = True) -> bool:
    """Return whether a refusal may be gone at the next try."""
    if error.code in _LASTING:
        return False
    return error.status in _BUSY or (is_repeatable and error.status in _LOST_BEHIND_A_PROXY)


def connection_failed(lost: ConnectionLostError) -> ApiError:
    """Make the error of a connection that could not be made, or that broke."""
    return ApiError(
        CONNECTION_FAILED,
        f"the service does not answer ({lost.reason}); is it running, and is the URL right?",
    )
