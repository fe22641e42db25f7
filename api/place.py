"""Where something of the service is, as a client behind a proxy sees it."""

from __future__ import annotations

from fastapi import Request


def place(request: Request, path: str) -> str:
    """Return a path below the one that the proxy shows the service under (`--root-path`)."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/") + path
