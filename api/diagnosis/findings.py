"""What a check says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, and should be otherwise."""
    FAULT = "fault"
    """Something cannot work like this."""
    SKIPPED = "skipped"
    """Something else has to be mended first, or is not used here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check of one thing."""

    check: str
    verdict: Verdict
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do; empty if there is nothing to be done."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


def ok(check: str, detail: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(check=check, verdict=Verdict.OK, detail=detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Say that something works, and should be otherwise."""
    return Finding(check=check, verdict=Verdict.WARNING, detail=detail, remedy=remedy)


def fault(check: str, detail: str, remedy: str) -> Finding:
    """Say that something cannot work like this."""
    return Finding(check=check, verdict=Verdict.FAULT, detail=detail, remedy=remedy)


def skipped(check: str, detail: str) -> Finding:
    """Say that something could not be looked at, or is not used here."""
    return Finding(check=check, verdict=Verdict.SKIPPED, detail=detail)
