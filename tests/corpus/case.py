"""A hostile or broken file, and how it must be refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["checkpoint", "dataset", "archive"]

MARKER = Path(tempfile.gettempdir()) / "momentum-corpus-marker"
"""Code in a hostile file makes this file; it must never be there."""


@dataclass(frozen=True, slots=True)
class Case:
    """A file to be sent.

    `name` begins with the row of the attack table it belongs to; `build` makes the bytes, always
    the same; `code` is the stable code of the refusal.
    """

    name: str
    kind: Kind
    code: str
    build: Callable[[], bytes]

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return {"unsupported_format": 415, "upload_too_large": 413}.get(self.code, 422)

    def __str__(self) -> str:
        return self.name
