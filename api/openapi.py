"""The OpenAPI document: what FastAPI knows, and every problem that an operation answers with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.error_codes import ERROR_CODES

PROBLEM_TYPE = "application/problem+json"

_PROBLEM = {"$ref": "#/components/schemas/ProblemView"}
_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""FastAPI's own form of a wrong request, which we do not answer with."""

_OF_KEYS = ("missing_key", "invalid_key", "insufficient_scope", "foreign_site")
_OF_PARAMETERS = {
    "job_id": "job_not_found",
    "upload_id": "upload_not_found",
    "key_id": "key_not_found",
    "webhook_id": "webhook_not_found",
    "inspection_id": "inspection_not_found",
    "worker_name": "worker_not_found",
    "queue_name": "queue_not_found",
}
FILE_CODES = tuple(
    code
    for code, one in ERROR_CODES.items()
    if one.meaning.startswith("the file ") or code == "inspection_unavailable"
)
"""What a file may be refused for."""

CODES = "x-codes"
"""Where a response of the document lists its codes."""

ADMIN_ONLY = {"x-scope": "admin"}
"""What the document says of an operation that takes the scope `admin`."""


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route says of the problems that are its own, for its argument `responses`.

    Args:
        codes: of `ERROR_CODES`; those of keys, ids and of wrong requests come by themselves.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        for status in ERROR_CODES[code].statuses:
            found.setdefault(status, {CODES: []})[CODES].append(code)
    return {status: _described(response[CODES]) for status, response in found.items()}


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return an application's OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        for path, item in document["paths"].items():
            for method in _METHODS:
                if method in item:
                    _add_problems(path, item[method])
        for name in _FASTAPI_SCHEMAS:
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def methods_of(app: FastAPI, path: str) -> list[str]:
    """Return the methods that a path answers, for the header `Allow`."""
    paths = document_of(app)["paths"]
    # A fixed path goes before one with an id in its place, as it does in routing.
    for template in sorted(paths, key=lambda one: str(one).count("{")):
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", template), path):
            found = {method.upper() for method in _METHODS if method in paths[template]}
            return sorted(found | ({"HEAD"} if "GET" in found else set()))
    return []


def _add_problems(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if any(_FASTAPI_SCHEMAS[0] in str(response) for response in responses.values()):
        del responses["422"]
    codes = list(_OF_KEYS) if operation.get("security") else []
    codes += [code for name, code in _OF_PARAMETERS.items() if f"{{{name}}}" in path]
    if operation.get("parameters") or operation.get("requestBody"):
        codes.append("invalid_request")
    if operation.get("requestBody"):
        codes.append("too_slow")
    for status, response in problems(*codes).items():
        mine = responses.get(str(status), {}).get(CODES, [])
        responses[str(status)] = _described([*response[CODES], *mine])
    # Nothing else is foreseen; programs that are generated from the document need to know its form.
    responses["default"] = _described(["internal_error", "database_unavailable"])
    operation["responses"] = dict(sorted(responses.items()))


def _described(codes: Iterable[str]) -> dict[str, Any]:
    codes = list(dict.fromkeys(codes))
    return {
        "description": "\n".join(f"- `{code}`: {ERROR_CODES[code].meaning}" for code in codes),
        "content": {PROBLEM_TYPE: {"schema": _PROBLEM}},
        CODES: codes,
    }
