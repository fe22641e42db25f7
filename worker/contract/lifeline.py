"""No orphans: a process that ends with its parent, however the parent ends.

python -m worker.contract.lifeline PARENT COMMAND...     becomes COMMAND, tied to PARENT
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing is done).

    Args:
        parent: the parent's process id; this process ends at once if it is gone already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def tied_command(command: list[str]) -> list[str]:
    """Return the command that runs `command` for as long as this process lives, at most."""
    return [sys.executable, "-P", "-m", "worker.contract.lifeline", str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 (no shell is the point)
