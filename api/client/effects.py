"""What an operation asks of the world; it does nothing itself.

An operation is a generator: it yields an effect, is sent what came of it, and returns its result.
One runner carries effects out with threads' blocking calls, another one with asyncio's (`running`),
so that every method of both clients is written once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from api.client.errors import UNEXPECTED_ANSWER, ApiError

T = TypeVar("T")

READ_SECONDS = 60.0
"""How long an answer, or its next piece, may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """A part of a file as the body of a request."""

    path: Path
    offset: int
    num_bytes: int
    on_sent: Callable[[int], None] | None = None
    """Told the file's offset after each piece that was handed to the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request, below the service's URL."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    """Sent as the body, unless it is None."""
    body: FileRange | None = None
    is_repeatable: bool = True
    """Whether it does no harm when it is carried out twice, its answer being lost."""
    read_seconds: float = READ_SECONDS


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `headers` finds names whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON value.

        Raises:
            ApiError: `unexpected_answer`, the body is no JSON.
        """
        return json_of(self.body)


def place(*parts: str) -> str:
    """Return the path of something, whatever characters its names have."""
    return "".join(f"/{quote(part, safe=':')}" for part in parts)


def json_of(text: bytes | str) -> Any:
    """Return the value of a JSON text that a service sent.

    Raises:
        ApiError: `unexpected_answer`, it is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError(
            UNEXPECTED_ANSWER,
            f"what answers sends no JSON ({text[:80]!r}); does the URL lead to Momentum Zoo?",
        ) from None


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request, read the whole answer: gives an `Answer`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request; the answer's body stays to be read: gives an `Answer` with an empty body."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Read what has come of the open answer: gives bytes, none at its end."""


@dataclass(frozen=True, slots=True)
class ReadAll:
    """Read the rest of the open answer: gives bytes."""


@dataclass(frozen=True, slots=True)
class Close:
    """Leave the open answer."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Block:
    """Call what may take its time on a disk or a processor: gives what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Tell:
    """Call a function of the user's; one that is awaitable is awaited."""

    function: Callable[[Any], Any]
    value: Any


@dataclass(frozen=True, slots=True)
class Give:
    """Hand a value to who iterates."""

    value: Any


Effect = Send | Open | Read | ReadAll | Close | Pause | Block | Tell | Give
Op = Generator[Effect, Any, T]
"""An operation that returns a `T`."""


class ConnectionLostError(Exception):
    """No answer, or not all of it; raised at the effect.

    Attributes:
        reason: what the network said.
        was_sent: whether the service may have seen the request.
    """

    def __init__(self, reason: str, *, was_sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.was_sent = was_sent
