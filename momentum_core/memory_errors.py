"""Tells whether an error means that memory ran out."""

from __future__ import annotations

import errno

import torch

_NAMES = (
    "can't allocate memory",  # torch's allocator on a CPU
    "cannot allocate memory",  # the operating system, in whoever's words
    "std::bad_alloc",
    "could not create a memory",  # oneDNN
    "failed to map segment from shared object",  # a library that is loaded late
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left.

    On a CPU that has many names: torch's allocator and oneDNN raise a bare RuntimeError, the
    operating system says ENOMEM, a library that is loaded late cannot be mapped.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    words = str(error).lower()
    is_named = isinstance(error, RuntimeError | ImportError | OSError)
    return is_named and any(name in words for name in _NAMES)
