"""What kind of file this is, by its first and last bytes; a name or an extension says nothing."""

from __future__ import annotations

from typing import Literal

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse, unsupported
from momentum_core.checkpoint.torch_legacy import MAGIC_PREFIX

Format = Literal["torch_zip", "torch_legacy", "safetensors"]

_FROM_ORIGIN = "send the weights of the PyTorch model that it was made from"
_FROM_KERAS = f"load it with Keras, copy its weights into the PyTorch model, and {SAVE_AGAIN}"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# First bytes, what it is, what to do instead.
_FOREIGN = (
    (b"GGUF", "a GGUF file", _FROM_ORIGIN),
    (b"ggml", "a GGML file", _FROM_ORIGIN),
    (_HDF5, "an HDF5 file (Keras)", _FROM_KERAS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and send the checkpoint inside"),
    (b"\x1f\x8b", "a gzip file", "unpack it and send the checkpoint inside"),
    (b"BZh", "a bzip2 file", "unpack it and send the checkpoint inside"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it and send the checkpoint inside"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", "unpack it and send the checkpoint inside"),
    (b"Rar!", "a RAR archive", "unpack it and send the checkpoint inside"),
    (b"\x93NUMPY", "a numpy array", "send it as data, in an .npz, not as checkpoint"),
    (b"\x89PNG", "an image", "send the checkpoint"),
    (b"\xff\xd8\xff", "an image", "send the checkpoint"),
    (b"\x7fELF", "a program", "send the checkpoint"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` and send the real file"),
)
# An ONNX file is a protobuf whose first field is the IR version.
_ONNX_STARTS = tuple(bytes((8, version)) for version in range(3, 16))
_PICKLE_PROTOCOLS = tuple(bytes((0x80, version)) for version in range(6))
_TAR_MAGIC_AT = 257
_HDF5_PLACES = (512, 1024, 2048)
"""Where an HDF5 file begins behind a block of the user's own."""


def detect_format(source: ByteSource, limits: Limits) -> Format:
    """Return the format of a checkpoint that may be read.

    Raises:
        CheckpointError: `unsupported_format` with the way to convert, `truncated_file` for an
            empty or cut one, `upload_too_large`, `unsafe_archive` for two formats in one file.
    """
    if source.num_bytes == 0:
        raise refuse("truncated_file", "the file is empty; send it again")
    if source.num_bytes > limits.max_file_bytes:
        raise refuse(
            "upload_too_large",
            f"the file has {source.num_bytes} bytes; the limit is {limits.max_file_bytes}",
        )
    head = source.read_up_to(0, 512)
    if head.startswith(MAGIC_PREFIX):
        return "torch_legacy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "torch_zip"
    if len(head) < len(MAGIC_PREFIX) and MAGIC_PREFIX.startswith(head):
        raise refuse("truncated_file", "the file is cut off after a few bytes; send it again")
    _refuse_zip_behind(source)
    if head[8:9] == b"{":
        return "safetensors"
    raise _foreign(source, head)


def _foreign(source: ByteSource, head: bytes) -> Exception:
    for start, kind, remedy in _FOREIGN:
        if head.startswith(start):
            return unsupported(kind, remedy)
    if any(source.read_up_to(at, len(_HDF5)) == _HDF5 for at in _HDF5_PLACES):
        return unsupported("an HDF5 file (Keras)", _FROM_KERAS)
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return unsupported(
            "a tar archive",
            f"unpack it; if it is a torch file of 2016, open it there and {SAVE_AGAIN}",
        )
    if head.startswith(_ONNX_STARTS) and (b"pytorch" in head or b"onnx" in head or b":" in head):
        return unsupported("an ONNX model", _FROM_ORIGIN)
    if head.startswith(_PICKLE_PROTOCOLS):
        return unsupported("a bare pickle, not a file of torch.save", SAVE_AGAIN)
    if _is_text(source.read_up_to(0, 4096)):
        return unsupported(
            "a text file (perhaps the error page of a failed download)", "send the checkpoint"
        )
    return unsupported("no checkpoint that is known", SAVE_AGAIN)


def _refuse_zip_behind(source: ByteSource) -> None:
    tail = source.read_at(max(0, source.num_bytes - 22), min(22, source.num_bytes))
    if tail.startswith(b"PK\x05\x06") and tail.endswith(b"\0\0"):
        raise refuse(
            "unsafe_archive", "the file is a zip archive with something else in front of it"
        )


def _is_text(head: bytes) -> bool:
    try:
        text = head[: len(head) - 3 if len(head) > 64 else None].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)
