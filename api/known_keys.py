"""Keys that held a moment ago: a client that asks often is not looked up each time."""

from __future__ import annotations

import hashlib
import time
from threading import Lock

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
        self._num_forgotten = 0
        self._lock = Lock()

    def recent(self, secret: str) -> ApiKey | None:
        """Return the key of a secret if it was looked up within the last second."""
        key, until = self._known.get(_digest(secret), (None, 0.0))
        return key if time.monotonic() < until else None

    def find(self, secret: str) -> ApiKey | None:
        """Look the key of a secret up; None if it does not hold."""
        until = time.monotonic() + HOLD_SECONDS  # before the look: what changes later counts
        num_forgotten = self._num_forgotten
        key = self._keys.find(secret)
        with self._lock:
            # What was revoked while this looked must not be remembered.
            if key is not None and num_forgotten == self._num_forgotten:
                if len(self._known) >= MAX_KEYS:
                    self._known.clear()
                self._known[_digest(secret)] = (key, until)
        return key

    def forget(self) -> None:
        """Look every key up again."""
        with self._lock:
            self._num_forgotten += 1
            self._known.clear()


def _digest(secret: str) -> bytes:
    # Not the secret itself, which a dump of the memory would show.
    return hashlib.sha256(secret.encode()).digest()
