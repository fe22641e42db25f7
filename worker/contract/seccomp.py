"""A filter on system calls for the inspector: what it needs is listed, everything else is refused.

A list of what is allowed also holds against calls that the kernel gets tomorrow. Each refused call
fails with EPERM, so the inspector ends in an error and not in a core.

Source: Linux Documentation/userspace-api/seccomp_filter.rst; numbers from asm/unistd_64.h (x86_64)
and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from dataclasses import dataclass

_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_RETURN_ALLOW = 0x7FFF0000
_RETURN_EPERM = 0x00050000 | errno.EPERM
_RETURN_KILL = 0x80000000
_X32_CALLS = 0x40000000
_PROT_EXEC = 4

# Reading and writing what is open, memory, time, signals to itself, and the end.
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "ftruncate": (77, 46),
    "close": (3, 57),
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Memory is given, but never memory that can be run.
_ALLOWED_WITHOUT_EXEC: dict[str, tuple[int, int]] = {"mmap": (9, 222), "mprotect": (10, 226)}


@dataclass(frozen=True, slots=True)
class _Machine:
    """What differs between processors.

    Attributes:
        audit: its `AUDIT_ARCH_*` number.
        seccomp: number of the call `seccomp`.
        column: its place in the tables above.
    """

    audit: int
    seccomp: int
    column: int


_MACHINES = {"x86_64": _Machine(0xC000003E, 317, 0), "aarch64": _Machine(0xC00000B7, 277, 1)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _AUDIT_AT, _THIRD_ARGUMENT_AT = 0, 4, 32


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_expected() -> bool:
    """Whether this platform has the filter; where it has, going without is an error."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def install() -> None:
    """Put the filter on this process, for ever; `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses it.
    """
    machine = _MACHINES[platform.machine()]
    instructions = filter_program(platform.machine())
    program = _Program(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    number, mode, flags = map(ctypes.c_long, (machine.seccomp, _SET_MODE_FILTER, _ALL_THREADS))
    if libc.syscall(number, mode, flags, ctypes.byref(program)) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, errno.errorcode.get(failed, "unknown error"))


def filter_program(machine_name: str) -> bytes:
    """Return the filter as BPF instructions of 8 bytes: code, jump if true, if false, operand.

    Args:
        machine_name: `x86_64` or `aarch64`.
    """
    machine = _MACHINES[machine_name]
    plain = [numbers[machine.column] for numbers in _ALLOWED.values()]
    checked = [numbers[machine.column] for numbers in _ALLOWED_WITHOUT_EXEC.values()]
    program = [
        (_LOAD, 0, 0, _AUDIT_AT),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _RETURN_KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _RETURN_EPERM),
    ]
    for number in plain:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RETURN_ALLOW)]
    for number in checked:
        program += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
            (_ANY_BIT, 1, 0, _PROT_EXEC),
            (_RETURN, 0, 0, _RETURN_ALLOW),
            (_RETURN, 0, 0, _RETURN_EPERM),
        ]
    program.append((_RETURN, 0, 0, _RETURN_EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
