"""Keys that held a moment ago: a client that asks often is not looked up each time."""

from __future__ import annotations

import hashlib
import time

from worker.contract.key_store import ApiKey, KeyStore

HOLD_SECONDS = 1.0
"""After this long a key is looked up again: one that was revoked elsewhere ends within it."""

MAX_KEYS = 10_000


class KnownKeys:
    """The keys of one process; what is revoked through it ends at once."""

    def __init__(self, keys: KeyStore) -> None:
        """Look keys up in `keys`."""
        self._keys = keys
        self._known: dict[bytes, tuple[ApiKey, float]] = {}

    def recent(self, secret: str) -> ApiKey | None:
        """Return the key of a secret if it was looked up within the last second."""
        key, until = self._known.get(_digest(secret), (None, 0.0))
        return key if time.monotonic() < until else None

    def find(self, secret: str) -> ApiKey | None:
        """Look the key of a secret up; None if it does not hold."""
        until = time.monotonic() + HOLD_SECONDS  # before the look: what changes later counts
        key = self._keys.find(secret)
        if key is not None:
            if len(self._known) >= MAX_KEYS:
                self._known.clear()
            self._known[_digest(secret)] = (key, until)
        return key

    def forget(self) -> None:
        """Look every key up again."""
        self._known.clear()


def _digest(secret: str) -> bytes:
    # Not the secret itself, which a dump of the memory would show.
    return hashlib.sha256(secret.encode()).digest()
