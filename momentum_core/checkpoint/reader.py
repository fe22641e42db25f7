"""Reading a checkpoint of any accepted format, without torch and without running any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import DEFAULT_LIMITS, Limits
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse
from momentum_core.checkpoint.safetensors_reader import read_safetensors
from momentum_core.checkpoint.sniff import Format, detect_format
from momentum_core.checkpoint.state_dict import place_tensors, select_weights, without_prefix
from momentum_core.checkpoint.tensor import StoredTensor
from momentum_core.checkpoint.torch_legacy import read_torch_legacy
from momentum_core.checkpoint.torch_zip import read_torch_zip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights in an open file.

    Attributes:
        format: `torch_zip`, `torch_legacy` or `safetensors`.
        tensors: by name, without wrapper (`state_dict`) and prefix (`module.`).
        ignored: what lay beside the weights and was not read.
    """

    format: Format
    tensors: dict[str, StoredTensor]
    ignored: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors' shapes by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


@contextmanager
def read_checkpoint(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Checkpoint]:
    """Open a checkpoint; its tensors can be read while the context lasts.

    Args:
        path: the file; its name does not matter.
        limits: how much it may ask for.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield parse_checkpoint(ByteSource(descriptor), limits)
    finally:
        os.close(descriptor)


def parse_checkpoint(source: ByteSource, limits: Limits) -> Checkpoint:
    """Find format, weights and their places in an open file; see `read_checkpoint`."""
    kind = detect_format(source, limits)
    if kind == "safetensors":
        tensors = without_prefix(read_safetensors(source, limits))
        ignored: tuple[str, ...] = ()
    else:
        read = read_torch_zip if kind == "torch_zip" else read_torch_legacy
        loaded = read(source, limits)
        selection = select_weights(loaded.value)
        tensors = place_tensors(source, selection.tensors, loaded.places, limits)
        if not loaded.all_inside:
            raise refuse(
                "tensor_out_of_bounds",
                f"a tensor beside the weights reaches beyond its stored elements; {SAVE_AGAIN}",
            )
        ignored = selection.ignored
    if not tensors:
        raise refuse("malformed_file", "the file holds no tensors; send a trained checkpoint")
    return Checkpoint(kind, tensors, ignored)
