"""Makes methods of operations: their signature and their docstring, with `self` in front."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from api.client.records import JobError, JobRecord

Method = TypeVar("Method", bound=Callable[..., Any])


def shown_as(operation: Callable[..., Any], *, num_given: int) -> Callable[[Method], Method]:
    """Document a method as its operation, of which it fills in the first arguments.

    Args:
        operation: what the method runs.
        num_given: how many arguments the method gives it by itself.
    """

    def decorate(method: Method) -> Method:
        functools.update_wrapper(method, operation)
        del method.__wrapped__  # type: ignore[attr-defined]
        signature = inspect.signature(operation)
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        left = list(signature.parameters.values())[num_given:]
        method.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[own, *left], return_annotation=inspect.Signature.empty
        )
        return method

    return decorate


class JobFacts:
    """What both kinds of job handles know without asking."""

    record: JobRecord
    """The job as it was when the service was last asked."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`, when last asked."""
        return self.record.state

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures of a job that has succeeded."""
        return self.record.result

    @property
    def error(self) -> JobError | None:
        """Why a job has failed."""
        return self.record.error
