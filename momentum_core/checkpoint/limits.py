"""How much a stranger's file may ask of the reader."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper bounds of what is read; a file beyond one of them is refused with its code."""

    max_file_bytes: int = 2048 * MEBIBYTE
    """Size of the file (`upload_too_large`)."""

    max_tensors: int = 20_000
    """Tensors in the file, the optimizer's included (`too_many_tensors`)."""

    max_tensor_bytes: int = 1024 * MEBIBYTE
    """Size of one tensor (`tensor_too_large`)."""

    max_dimensions: int = 8
    """Dimensions of a tensor (`malformed_file`)."""

    max_pickle_bytes: int = 64 * MEBIBYTE
    """Size of the pickled description beside the weights (`too_complex`)."""

    max_pickle_opcodes: int = 2_000_000
    """Instructions in that description (`too_complex`)."""

    max_header_bytes: int = 8 * MEBIBYTE
    """Size of a safetensors header (`too_many_tensors` or `malformed_file`)."""

    max_metadata_bytes: int = MEBIBYTE
    """Size of the free text in a safetensors header (`malformed_file`)."""

    max_array_bytes: int = 2048 * MEBIBYTE
    """Size of all arrays of a dataset, unpacked (`expands_too_large`)."""

    max_expansion: int = 100
    """Unpacked size over packed size of a compressed entry (`expands_too_large`)."""


DEFAULT_LIMITS = Limits()
