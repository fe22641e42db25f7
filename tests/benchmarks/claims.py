"""A figure that the documents state, and the bound that it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured ratio and its upper bound."""

    what: str
    value: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value <= self.at_most

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        return f"{mark}: {self.what}: {self.value:.3f} (at most {self.at_most:g})"


Part = Callable[[], Iterable[Claim]]
