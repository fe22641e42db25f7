"""Conditional requests (RFC 9110 section 13).

Of the headers with a time, one that is no date of HTTP counts as if it had not come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime


def is_unchanged(etag: str, if_none_match: str | None) -> bool:
    """Return whether a client has what it asks for already.

    Args:
        etag: of what there is, in quotes.
        if_none_match: the header's value: entity tags with commas between, or `*`.
    """
    if if_none_match is None:
        return False
    # Compared weakly, as the RFC wants it here; none of our tags has a comma in it.
    held = (one.strip().removeprefix("W/") for one in if_none_match.split(","))
    return any(one in (etag, "*") for one in held)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells a file from what it was or will be."""

    etag: str
    """In quotes."""
    modified_at: int
    """Seconds since 1970."""

    @property
    def last_modified(self) -> str:
        """Value of the header."""
        return formatdate(self.modified_at, usegmt=True)

    def fails(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request is for another version only: 412."""
        if_match = headers.get("if-match")
        if if_match is not None:
            # Compared strongly: a weak tag matches nothing.
            return not any(one.strip() in (self.etag, "*") for one in if_match.split(","))
        since = _read_date(headers.get("if-unmodified-since"))
        return since is not None and self.modified_at > since

    def is_held(self, headers: Mapping[str, str]) -> bool:
        """Return whether a client has this version already: 304."""
        if_none_match = headers.get("if-none-match")
        if if_none_match is not None:
            return is_unchanged(self.etag, if_none_match)
        since = _read_date(headers.get("if-modified-since"))
        return since is not None and self.modified_at <= since

    def is_in_parts(self, if_range: str | None) -> bool:
        """Return whether a client that asks for a part has other parts of this version."""
        return if_range in (None, self.etag, self.last_modified)


def _read_date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
