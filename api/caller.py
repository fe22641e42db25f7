"""Who asks: a key's tenant, or whoever sits at this machine.

A key comes in the header `Authorization`, or in the cookie that signing in to the web page sets.

Without a key only those are let in who come through a loopback address, and not through a proxy,
unless `MOMENTUM_REQUIRE_KEYS` says otherwise. A web page that a local user happens to look at can
send requests to a loopback address, too: those have another origin, or another host's name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.known_keys import KnownKeys
from api.problems import Problem
from worker.contract.job import DEFAULT_TENANT
from worker.contract.key_store import Scope

_LOCAL_NAMES = ("localhost",)
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

KEY_COOKIE = "momentum_key"
"""Set by signing in to the web page. Only browsers send it, and only from pages of this site."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    """None: somebody at this machine, without a key."""

    def needs(self, scope: Scope) -> None:
        """Refuse who lacks a scope.

        Raises:
            Problem: 403.
        """
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise Problem(
                403,
                "insufficient_scope",
                f"this needs a key with the scope {scope}; yours has "
                f"{', '.join(sorted(self.scopes))}",
            )


async def identify(request: Request, keys: KnownKeys, *, require_keys: bool) -> Caller:
    """Return who sends a request.

    Raises:
        Problem: 401, a key is missing or does not hold; 403, the request comes from another site.
    """
    header = request.headers.get("authorization")
    if header is not None:
        kind, _, secret = header.partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        key = keys.recent(secret) or await run_in_threadpool(keys.find, secret)
        if key is None:
            raise Problem(
                401,
                "invalid_key",
                "the key in the header Authorization is none that holds; send "
                "'Authorization: Bearer mz_...' with one that was neither revoked nor has expired",
                headers=_CHALLENGE,
            )
        return Caller(key.tenant, key.scopes, key.id)
    if (held := request.cookies.get(KEY_COOKIE)) is not None:
        # One that does not hold any more counts as none: the browser is asked to sign in again.
        key = keys.recent(held) or await run_in_threadpool(keys.find, held)
        if key is not None:
            check_cookie_site(request)
            return Caller(key.tenant, key.scopes, key.id)
    if require_keys or not _comes_from_this_machine(request):
        raise Problem(
            401,
            "missing_key",
            "this service needs a key: send the header 'Authorization: Bearer mz_...'; whoever "
            "runs it makes keys with POST /keys",
            headers=_CHALLENGE,
        )
    _check_site(request)
    return Caller(DEFAULT_TENANT, frozenset(Scope))


def is_loopback(host: str) -> bool:
    """Return whether an address or name can be reached from this machine only."""
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_cookie_site(request: Request) -> None:
    """Refuse a change that another site's page asks a browser for, which adds our cookie to it.

    The cookie is `SameSite=Strict` already; but to it another port of this host is the same site.

    Raises:
        Problem: 403.
    """
    if request.method in _SAFE_METHODS:
        return
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    if urlsplit(origin).netloc != host:
        raise Problem(
            403,
            "foreign_site",
            "with a cookie in place of a key only this service's own pages may change something, "
            f"and this came from {origin[:200]!r} to {host[:200]!r}; send the key in the header "
            "Authorization, or have the proxy pass on the header Host as it came",
        )


def _comes_from_this_machine(request: Request) -> bool:
    server = request.scope.get("server")
    is_forwarded = any(name in request.headers for name in _FORWARDED)
    return server is not None and is_loopback(server[0]) and not is_forwarded


def _check_site(request: Request) -> None:
    """Refuse what a web page of another site sends; browsers name their page's origin."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or not is_loopback(host):
        raise Problem(
            403,
            "foreign_site",
            "without a key only this machine's own programs may ask, under http://127.0.0.1 or "
            "http://localhost; send a key",
        )
