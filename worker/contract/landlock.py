"""Landlock: this process can open, list, make or remove no file, and bind or connect nothing.

Source: Linux Documentation/userspace-api/landlock.rst; the three calls have the same numbers on
every processor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
_ABSENT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
# By the first version that knows them: rights on files, then on the network, then scopes.
_FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
_TCP_SINCE, _TCP_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11


def version() -> int:
    """Return the kernel's version of Landlock; 0 where there is none or it may not be used."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise


def install() -> None:
    """Take every right that this kernel's version knows, for ever; `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses it.
    """
    attributes = ruleset(version())
    descriptor = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def ruleset(known: int) -> bytes:
    """Return the rights that are taken: files, network, scopes; as much as a version takes.

    Args:
        known: the kernel's version, at least 1.
    """
    num_rights = max(bits for since, bits in _FILE_RIGHTS if known >= since)
    fields = [(1 << num_rights) - 1]
    if known >= _TCP_SINCE:
        fields.append(_TCP_RIGHTS)
    if known >= _SCOPES_SINCE:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _call(number: int, *arguments: bytes | int | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [
        ctypes.c_size_t(argument) if isinstance(argument, int) else argument
        for argument in arguments
    ]
    answer: int = libc.syscall(ctypes.c_long(number), *wide)
    if answer < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, errno.errorcode.get(failed, "unknown error"))
    return answer
