"""What all pages share: the templates, the headers, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from api.caller import KEY_COOKIE
from api.place import place
from api.problems import Problem
from api.web.words import add_filters

SIGN_IN_PATH = "/ui/sign-in"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    # Or browsers would send the origin `null` with our own forms.
    "Referrer-Policy": "same-origin",
}
"""Of every page: nothing from elsewhere, and no script or style but those in files of ours."""


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: which it answers.
        template: file name without its ending.
        status: of the answer.
        values: what the template names.
    """
    caller = getattr(request.state, "caller", None)
    root = place(request, "")
    text = (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(
            root=root,
            path=request.url.path.removeprefix(root),
            caller=caller,
            is_signed_in=caller is not None and KEY_COOKIE in request.cookies,
            **values,
        )
    )
    return HTMLResponse(text, status_code=status, headers=HEADERS)


class PageRoute(APIRoute):
    """A route whose errors are pages: whoever has no key is asked for one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_with_page(request: Request) -> Response:
            try:
                return await answer(request)
            except Problem as problem:
                if problem.status == HTTPStatus.UNAUTHORIZED:
                    return _to_sign_in(request)
                return _error_page(request, problem.status, str(problem))
            except RequestValidationError as error:
                told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
                return _error_page(request, HTTPStatus.UNPROCESSABLE_ENTITY, told)

        return answer_with_page


def _to_sign_in(request: Request) -> Response:
    wanted = request.url.path.removeprefix(place(request, ""))
    if request.url.query:
        wanted += f"?{request.url.query}"
    return RedirectResponse(place(request, f"{SIGN_IN_PATH}?next={quote(wanted)}"), status_code=303)


def _error_page(request: Request, status: int, detail: str) -> Response:
    return page(
        request, "error", status=status, title=HTTPStatus(status).phrase.lower(), detail=detail
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("api.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    add_filters(environment)
    return environment
