"""Checks of single option values, for the messages to be alike everywhere."""

from __future__ import annotations

import math

from momentum_core.errors import ConfigError


def check_number(name: str, value: object, *, low: float, high: float, remedy: str) -> None:
    """Raise unless `value` is a finite number from `low` to `high`.

    Raises:
        ConfigError: it is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[operator,arg-type]
        raise ConfigError(
            f"{name} must be a number from {low:g} to {high:g}, got {value!r}; {remedy}"
        )


def check_integer(name: str, value: object, *, low: int, high: int, remedy: str = "") -> None:
    """Raise unless `value` is a whole number from `low` to `high`.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        hint = f"; {remedy}" if remedy else ""
        raise ConfigError(
            f"{name} must be a whole number from {low} to {high}, got {value!r}{hint}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`.

    Raises:
        ConfigError: it is not.
    """
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
