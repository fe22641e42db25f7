"""Filters of the templates."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from api.words import (
    accuracy_words,
    duration,
    memory_words,
    path_words,
    size,
    value_words,
    waiting_words,
)


def moment(at: datetime | float | None) -> Markup:
    """Return a time; a script writes it by the clock of whoever reads."""
    if at is None:
        return Markup("-")
    found = datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else at
    return Markup('<time datetime="{}">{}</time>').format(
        found.isoformat(timespec="seconds"), found.strftime("%Y-%m-%d %H:%M UTC")
    )


def as_json(value: Any) -> str:
    """Return a value as JSON for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def add_filters(environment: Environment) -> None:
    """Let templates write values as commands do."""
    environment.filters |= {
        "waiting": waiting_words,
        "duration": duration,
        "size": size,
        "accuracy_words": accuracy_words,
        "memory_words": memory_words,
        "path_words": path_words,
        "moment": moment,
        "as_json": as_json,
    }
    environment.globals["value_words"] = value_words
