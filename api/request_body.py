"""From JSON to a `ConvertRequest`, with an error that names the field and the remedy."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from functools import cache
from typing import Any, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from api.problems import Problem
from worker.contract.request import ConvertRequest

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def parse_request(body: bytes) -> ConvertRequest:
    """Check a request's JSON.

    Args:
        body: UTF-8 JSON; empty for a request with no options.

    Raises:
        Problem: it is no JSON, has an option that does not exist, or a value that is not allowed.
    """
    try:
        return _adapter().validate_json(body or b"{}", strict=True, extra="forbid")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=True)
    if found[0]["type"] == "json_invalid":
        raise Problem(
            400,
            "malformed_json",
            f"the request is no JSON: {found[0]['msg']}; check it with a JSON tool",
        )
    by_place: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for one in found:
        place = _without_branch(one["loc"])
        by_place.setdefault(place, dict(one) | {"loc": place})
    errors = [
        {"pointer": _pointer(place), "detail": _sentence(one)} for place, one in by_place.items()
    ]
    raise Problem(422, "invalid_request", "; ".join(one["detail"] for one in errors), errors=errors)


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a request."""
    schema = _adapter().json_schema()
    return cast(dict[str, Any], _without_references(schema, schema.get("$defs", {})))


def option_names() -> list[str]:
    """Return the dotted names of all options that hold a value."""
    options = _options(ConvertRequest)
    return [one for one in options if not any(two.startswith(f"{one}.") for two in options)]


def _without_references(value: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions where they are used: OpenAPI knows no `$defs` inside a body."""
    if isinstance(value, list):
        return [_without_references(one, definitions) for one in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        rest = {key: one for key, one in value.items() if key != "$ref"}
        return _without_references(definitions[name], definitions) | rest
    return {
        key: _without_references(one, definitions) for key, one in value.items() if key != "$defs"
    }


@cache
def _adapter() -> TypeAdapter[ConvertRequest]:
    return TypeAdapter(ConvertRequest)


def _without_branch(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Cut off which type of several a value was tried as: no part of the request."""
    for length in range(1, len(location)):
        is_option = ".".join(map(str, location[:length])) in option_names()
        if is_option and isinstance(location[length], str):
            return location[:length]
    return location


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join(f"/{ascii(str(part))[1:-1][:80]}" for part in location)


def _sentence(error: dict[str, Any]) -> str:
    location: tuple[int | str, ...] = error["loc"]
    name = _pointer(location)[1:].replace("/", ".") or "the request"
    if error["type"] in _UNKNOWN:
        return f"there is no option {name}; {_hint(location)}"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    given = ascii(error["input"])
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{name}: {error['msg']}, got {given}"


def _hint(location: tuple[int | str, ...]) -> str:
    """Name the option that was meant: of the same part, or of the same name in another part."""
    options = _options(ConvertRequest)
    part = "".join(f"{name}." for name in location[:-1])
    here = [one for one in options if one.startswith(part) and "." not in one[len(part) :]]
    wrong = str(location[-1])[:80]
    # Without the part: it is the same in all of them, and would make them all alike.
    names = [one[len(part) :] for one in here]
    near = [part + one for one in get_close_matches(wrong, names, n=1, cutoff=0.6)]
    near += [one for one in options if one.rpartition(".")[2] == wrong]
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(here)}"


def _options(kind: type[Any], prefix: str = "") -> list[str]:
    """Return the dotted names of all options."""
    hints, names = get_type_hints(kind), []
    for each in dataclasses.fields(kind):
        names.append(prefix + each.name)
        for inner in (hints[each.name], *get_args(hints[each.name])):
            if dataclasses.is_dataclass(inner):
                names += _options(inner, f"{prefix}{each.name}.")  # type: ignore[arg-type]
    return names
