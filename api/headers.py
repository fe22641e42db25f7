"""Headers of every answer, after OWASP ASVS 5 section 3.4."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER = "X-Request-Id"
"""Names a request in the log of the service and in the audit log."""

SECURITY_HEADERS = {
    # Answers are data: nothing in them may run or load anything, nor be shown inside another page.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # What needs a key is nobody else's; answers that may be kept say so themselves.
    "Cache-Control": "no-store",
}
_SECURE_ONLY = {"Strict-Transport-Security": "max-age=31536000"}

# A client of tus takes an answer without it, an error too, for one of something else.
_TUS_HEADERS = {"Tus-Resumable": "1.0.0"}
_UPLOADS_PATH = "/uploads"


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


# As they are sent: every answer has them.
_PLAIN = _encoded(SECURITY_HEADERS)
_SECURE = _encoded(SECURITY_HEADERS | _SECURE_ONLY)


class SecurityHeaders:
    """ASGI middleware that adds them where a route has not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and complete its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"].removeprefix(scope.get("root_path", ""))
                wanted = _SECURE if scope["scheme"] == "https" else _PLAIN
                if path == _UPLOADS_PATH or path.startswith(f"{_UPLOADS_PATH}/"):
                    wanted = [*wanted, *_encoded(_TUS_HEADERS)]
                own = {name for name, _ in message["headers"]}
                added = [header for header in wanted if header[0] not in own]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, complete)
