"""A port for a server that a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path


def free_port() -> int:
    """Return a port of 127.0.0.1 that no connection, and nobody who asks for any, gets by chance.

    Nobody listens on it now, and it is below those that the kernel gives out by itself.
    """
    # Other systems than Linux give out higher ones.
    given_out = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(given_out.read_text().split()[0]) if given_out.exists() else 32_768
    while True:
        # Not the shared generator, which two test processes may have seeded alike.
        port = random.SystemRandom().randrange(10_000, lowest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
