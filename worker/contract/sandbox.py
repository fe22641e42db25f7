"""The walls around the inspector: once they stand, it can compute, and use what is open already.

Each layer holds by itself, so that a hole in one is not a hole in all. A layer that the platform
should have and that cannot be put up is an error: nothing is inspected without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from momentum_core.checkpoint.limits import MEBIBYTE
from worker.contract import landlock, seccomp

ADDRESS_SPACE_BYTES = 1024 * MEBIBYTE
"""Address space of an inspector, beside the size of the file."""

LAYERS = (
    *("descriptors", "capabilities", "no_new_privileges"),
    *("landlock", "resource_limits", "seccomp"),
)
"""The layers, in the order in which they go up: each needs what a later one takes away."""

_SET_NO_NEW_PRIVS = 38
# Both words of the header: version 3 of the call, this process.
_CAPABILITIES_HEADER = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
_NO_CAPABILITIES = bytes(24)


class SandboxError(RuntimeError):
    """A layer that this platform should have cannot be put up; no file is to blame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What an inspector may use."""

    file_bytes: int
    """Size of the file it reads; its address space grows with it."""

    output_bytes: int
    """Largest file that it may write."""

    cpu_seconds: int
    """Time of a processor; the parent ends it by the clock besides."""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Which layers stand on this machine.

    Attributes:
        active: names of `LAYERS` that stand.
        missing: for each other one, why this platform has it not.
    """

    active: tuple[str, ...]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {"active": list(self.active)}


def close_sandbox(
    allowance: Allowance, *, keep: Collection[int], layers: Collection[str] = LAYERS
) -> SandboxReport:
    """Put up the walls around this process; there is no way back.

    Everything that will be needed must be imported, and every file opened, before.

    Args:
        allowance: what the process may use.
        keep: the descriptors that stay open.
        layers: which walls; tests put them up one at a time.

    Raises:
        SandboxError: a layer that this platform should have cannot be put up.
    """
    missing = {name: reason for name in layers if (reason := _why_missing(name))}
    for name in LAYERS:
        if name not in layers or name in missing:
            continue
        try:
            _put_up(name, allowance, keep)
        except (OSError, ValueError) as error:
            raise SandboxError(
                f"the inspector's layer {name} cannot be put up on this machine ({error}); "
                "docs/security.md says what each layer needs"
            ) from error
    return SandboxReport(
        tuple(name for name in LAYERS if name in layers and name not in missing), missing
    )


def _why_missing(name: str) -> str:
    """Return why a platform lacks a layer; nothing where it should have it."""
    on_linux = sys.platform == "linux"
    if name in ("capabilities", "no_new_privileges") and not on_linux:
        return "only Linux has it"
    if name == "seccomp" and not seccomp.is_expected():
        return "known for Linux on x86_64 and aarch64 only"
    if name == "landlock" and not landlock.version():
        return "the kernel has none, or the container forbids it" if on_linux else "Linux only"
    return ""


def _put_up(name: str, allowance: Allowance, keep: Collection[int]) -> None:
    match name:
        case "resource_limits":
            _limit_resources(allowance)
        case "descriptors":
            close_descriptors(keep)
        case "capabilities":
            _drop_capabilities()
        case "no_new_privileges":
            _prctl(_SET_NO_NEW_PRIVS, 1)
        case "landlock":
            landlock.install()
        case "seccomp":
            seccomp.install()


def _limit_resources(allowance: Allowance) -> None:
    limits = [
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES + allowance.file_bytes),
        (resource.RLIMIT_CPU, allowance.cpu_seconds),
        (resource.RLIMIT_FSIZE, allowance.output_bytes),
        (resource.RLIMIT_CORE, 0),
        # No further descriptor and, for others than root, no further process.
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
    ]
    for kind, value in limits:
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (lowered, lowered))
        except (OSError, ValueError):
            # macOS refuses to bound the address space; the documents say so.
            if sys.platform == "linux":
                raise


def close_descriptors(keep: Collection[int]) -> None:
    """Close all descriptors but these."""
    at = 0
    for descriptor in sorted(keep):
        if at < descriptor:  # Python closes all descriptors for an empty range from 0
            os.closerange(at, descriptor)
        at = descriptor + 1
    os.closerange(at, max(at, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _drop_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(_CAPABILITIES_HEADER, _NO_CAPABILITIES) != 0:
        raise _last_error()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing) != 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, errno.errorcode.get(number, "unknown error"))
