"""HEAD wherever there is GET (RFC 9110 section 9.1); FastAPI adds none by itself."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute


def answer_head(router: APIRouter) -> None:
    """Answer HEAD as GET would, for every route of `router` that has no HEAD of its own.

    The server sends no body to HEAD; endpoints need not know. They stay out of the OpenAPI
    document, which would say everything twice.
    """
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    own = {route.path for route in routes if "HEAD" in (route.methods or ())}
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in own:
            router.add_api_route(
                route.path.removeprefix(router.prefix),
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_class=route.response_class,
                response_model=route.response_model,
                status_code=route.status_code,
            )
