"""Conditional requests (RFC 9110 section 13)."""

from __future__ import annotations


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
