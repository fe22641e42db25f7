"""Styles and scripts of the pages, as they are sent."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from api.conditional import is_unchanged

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

SWAGGER_UI = ("swagger-ui.css", "swagger-ui-bundle.js")
"""The reference's page, as a package brings it."""

router = APIRouter(include_in_schema=False)


@router.get("/ui/assets/{name}")
async def get_asset(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return one of the files; a browser that has it asks whether it is still the same."""
    try:
        content = _assets()[name]
    except KeyError:
        raise HTTPException(404) from None
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if is_unchanged(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _assets() -> dict[str, bytes]:
    folder = files("api.web") / "assets"
    found = {one.name: one.read_bytes() for one in folder.iterdir()}
    others = [files("worker.figures") / "figures.css"]
    others += [files("fastapi_offline") / "static" / name for name in SWAGGER_UI]
    return found | {one.name: one.read_bytes() for one in others}
