"""How much a stranger's file may ask of the reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from momentum_core.errors import ConfigError

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

    max_unpacked_bytes: int = 8192 * MEBIBYTE
    """Size of all files of an archive, unpacked (`expands_too_large`)."""

    max_archive_files: int = 100_000
    """Files and folders in an archive (`too_many_files`)."""

    max_archive_depth: int = 8
    """Folders within one another, the file included (`unsafe_path`)."""

    max_classes: int = 2000
    """Classes in an archive (`invalid_data`)."""

    max_image_bytes: int = 20 * MEBIBYTE
    """Size of an image's file (`image_too_large`)."""

    max_image_pixels: int = 16 * MEBIBYTE
    """Pixels of an image (`image_too_large`)."""

    max_image_side: int = 8192
    """Longer side of an image, in pixels (`image_too_large`)."""

    max_bad_images: int = 100
    """Images that are named and skipped, at most one in ten (the first one's code)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ConfigError(f"the limit {name} must be a whole number above 0, got {value!r}")


DEFAULT_LIMITS = Limits()
