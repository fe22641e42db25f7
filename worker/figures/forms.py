"""How a value is written for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def written_bytes(value: float) -> str:
    """Write bytes in the largest unit of 1,024 that leaves at least 1."""
    size, unit = float(value), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{value:,} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"


def _seconds(value: float) -> str:
    return (
        f"{value:,.1f} s"
        if value >= 10
        else f"{value * 1000:,.1f} ms"
        if value < 1
        else f"{value:.2f} s"
    )


FORMS: Mapping[str, Callable[[Any], str]] = {
    "bytes": written_bytes,
    "ratio": lambda value: f"{value:.2f}x",
    "percent": lambda value: f"{value:.2f} %",
    "count": lambda value: f"{value:,}",
    "gib": lambda value: f"{value:g} GiB",
    "seconds": _seconds,
    "number": lambda value: f"{value:.4g}",
    "text": str,
}
"""How a value is written."""
