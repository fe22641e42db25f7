"""How a command ends, for scripts; docs/cli.md has the same table, which a test compares."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.client import ApiError


class ExitCode(IntEnum):
    """What a command ended with; the sentence says when."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Make a member of its number and its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done; of `watch` and `--wait`: the job has succeeded"
    FAILED = 1, "it could not be done; of `doctor`: something is wrong"
    USAGE = 2, "the command was not written as `--help` says, or an option's value is not allowed"
    NO_SERVICE = 3, "the service does not answer"
    NOT_ALLOWED = 4, "the service wants a key, or another one"
    NOT_FOUND = 5, "there is no such job, key, webhook or file"
    JOB_FAILED = 6, "the job that was waited for has failed"
    JOB_CANCELLED = 7, "the job that was waited for was cancelled"
    TIMEOUT = 8, "the time given by `--timeout` is over; the job goes on"
    INTERRUPTED = 130, "Ctrl-C; a job of a service goes on"


_OF_CODE = {
    "connection_failed": ExitCode.NO_SERVICE,
    "timeout": ExitCode.TIMEOUT,
    "invalid_argument": ExitCode.USAGE,
    "invalid_option": ExitCode.USAGE,
    "invalid_request": ExitCode.USAGE,
}
_OF_STATUS = {
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    502: ExitCode.NO_SERVICE,
    503: ExitCode.NO_SERVICE,
    504: ExitCode.NO_SERVICE,
}
_OF_STATE = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}


def exit_code_of(error: ApiError) -> ExitCode:
    """Return what a command ends with that met an error."""
    if error.code in _OF_CODE:
        return _OF_CODE[error.code]
    return _OF_STATUS.get(error.status or 0, ExitCode.FAILED)


def exit_code_of_state(state: str) -> ExitCode:
    """Return what a command ends with that waited for a job."""
    return _OF_STATE.get(state, ExitCode.FAILED)
