"""Signing in: a key in a cookie that scripts cannot read."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from api.caller import KEY_COOKIE, check_cookie_site
from api.dependencies import ServiceDependency
from api.place import place
from api.web.pages import SIGN_IN_PATH, PageRoute, page

SIGNED_IN_SECONDS = 12 * 3600

MAX_ADDRESS_CHARACTERS = 2000
MAX_FORM_BYTES = 16 << 10

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get(SIGN_IN_PATH)
async def show_sign_in(
    request: Request,
    next: Annotated[str, Query(max_length=MAX_ADDRESS_CHARACTERS)] = "/",
) -> Response:
    """Ask for a key."""
    return page(request, "sign_in", next=next, is_wrong=False)


# Nobody is known yet: no more is read than a form has.
@router.post(SIGN_IN_PATH, max_body_size=MAX_FORM_BYTES)
async def sign_in(
    request: Request,
    service: ServiceDependency,
    key: Annotated[str, Form(max_length=MAX_ADDRESS_CHARACTERS)],
    next: Annotated[str, Form(max_length=MAX_ADDRESS_CHARACTERS)] = "/",
) -> Response:
    """Keep a key that holds in a cookie, and go where the person wanted to."""
    check_cookie_site(request)
    secret = key.strip()
    if await run_in_threadpool(service.known_keys.find, secret) is None:
        return page(request, "sign_in", status=401, next=next, is_wrong=True)
    answer = _back_to(request, next)
    answer.set_cookie(
        KEY_COOKIE,
        secret,
        max_age=SIGNED_IN_SECONDS,
        path=place(request, "/"),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/ui/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the key."""
    check_cookie_site(request)
    answer = _back_to(request, SIGN_IN_PATH)
    answer.delete_cookie(KEY_COOKIE, path=place(request, "/"))
    return answer


def _back_to(request: Request, wanted: str) -> Response:
    """Lead to a page of ours, and to nowhere else, whatever the address says."""
    is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return RedirectResponse(place(request, wanted if is_ours else "/"), status_code=303)
