"""Files of other formats (rows X of the attack table)."""

from __future__ import annotations

import gzip
import io
import lzma

import numpy as np

from tests.corpus.case import Case
from tests.corpus.raw_zip import Entry, raw_zip
from tests.corpus.torch_files import honest_zip


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


_ROWS = (
    ("X01 GGUF", lambda: b"GGUF\x03\0\0\0" + bytes(64)),
    ("X01 ONNX", lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:" + bytes(64)),
    ("X01 HDF5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(64)),
    ("X01 npz with an object array", _npz),
    ("X01 npy", _npy),
    (
        "X01 Keras archive",
        lambda: raw_zip(
            [Entry("metadata.json", b"{}"), Entry("config.json", b"{}"), Entry("model.weights.h5")]
        ),
    ),
    (
        "X01 SavedModel in a zip",
        lambda: raw_zip([Entry("model/saved_model.pb"), Entry("model/variables/variables.index")]),
    ),
    ("X01 empty zip", lambda: raw_zip([])),
    ("X01 checkpoint in a gzip", lambda: gzip.compress(honest_zip(), 1, mtime=0)),
    ("X01 checkpoint in an xz", lambda: lzma.compress(honest_zip()[:5000])),
    ("X01 checkpoint in a 7z", lambda: b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(64)),
    ("X01 checkpoint in a RAR", lambda: b"Rar!\x1a\x07\x01\0" + bytes(64)),
    ("X01 checkpoint in a zip", lambda: raw_zip([Entry("resnet.pth", honest_zip())])),
    ("X01 Git LFS pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ("X03 text", lambda: b"conv1.weight 1 2 3\n" * 200),
    ("X03 error page", lambda: b"<!doctype html><title>404</title>\n"),
    ("X03 text that is not ASCII", lambda: "Gewichte für später\n".encode() * 300),
    ("X03 one byte", lambda: b"\0"),
    ("X03 zeros", lambda: bytes(100_000)),
    ("X03 PNG", lambda: b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ("X03 program", lambda: b"\x7fELF\x02\x01\x01" + bytes(64)),
)

FOREIGN_CASES = tuple(
    Case(name, "checkpoint", "unsupported_format", build) for name, build in _ROWS
)
