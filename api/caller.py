"""Who asks: a key's tenant, or whoever sits at this machine.

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
