"""Which form of an answer a client likes best (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """Return the media type that the header Accept ranks highest, the first offered of equals.

    What suits nobody is answered with the first one: a report is better than a refusal.

    Args:
        accept: the header's value.
        offered: media types, the default first.
    """
    ranges = [_read(one) for one in (accept or "*/*").split(",")]
    return max(offered, key=lambda media_type: _quality(media_type, ranges))


def _read(text: str) -> tuple[str, float]:
    media_range, *parameters = (word.strip().lower() for word in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality that the most specific range gives a type."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == pattern]
        if found:
            return max(found)
    return 0.0
