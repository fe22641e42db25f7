"""Two numbers that tell whether a tensor still has the contents that it had before.

A run that was reversed exactly ends where it started. What it started from is not kept, only this.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD_BYTES = 8
_ROW_WORDS = 256


def checksum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's memory, and its sum weighted by position, modulo 2^64.

    The memory is read as words w of 8 bytes, and as single bytes at its end. Rows r of 256 words
    share a weight: sum(w) and sum(r * w). The errors of a reversal that went wrong are rounding
    noise, which leaves both unchanged with a probability of about 2^-64.

    Args:
        tensor: any shape, any type with storage of its own.

    Returns:
        Shape (2,), int64, on the tensor's device: nothing waits for it.
    """
    with torch.no_grad():
        flat = _in_memory_order(tensor.detach())
        per_word = max(1, _WORD_BYTES // flat.element_size())
        whole = flat.numel() // per_word * per_word
        words, rest = flat[:whole].view(torch.int64), flat[whole:].view(torch.uint8)
        whole = words.numel() // _ROW_WORDS * _ROW_WORDS
        rows = words[:whole].view(-1, _ROW_WORDS).sum(1)
        parts = torch.cat((rows, words[whole:], rest.to(torch.int64)))
        weights = torch.arange(1, parts.numel() + 1, device=parts.device)
        return torch.stack((parts.sum(), weights.mul_(parts).sum()))


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return the elements in one dimension, without a copy if they lie side by side."""
    # `empty_like` keeps strides exactly where no memory is skipped or shared.
    is_dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    is_aligned = tensor.storage_offset() * tensor.element_size() % _WORD_BYTES == 0
    if is_dense and is_aligned:
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.clone(memory_format=torch.contiguous_format).view(-1)
