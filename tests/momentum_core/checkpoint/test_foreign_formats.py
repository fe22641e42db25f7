"""Files of other formats, as the programs they belong to write them: 415, and how to convert."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from momentum_core.checkpoint import read_checkpoint
from momentum_core.errors import CheckpointError
from tests.corpus.torch_files import honest_zip


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(1, 2),)), file)
    return file.getvalue()


def onnx(producer: bytes = b"") -> bytes:
    """What `onnx` 1.23 writes for y = Relu(x), with and without a producer."""
    graph = (
        b'\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02'
    )
    graph += b"\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    return b"\x08\x0e" + producer + b":" + bytes([len(graph)]) + graph + b"B\x02\x10\x1c"


def tar(format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        member = tarfile.TarInfo("model.pth")
        member.size = len(honest_zip())
        archive.addfile(member, io.BytesIO(honest_zip()))
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, honest_zip())
    return file.getvalue()


def compressed_arrays() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(3))
    return file.getvalue()


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
FORMATS = {
    "TorchScript": (scripted, "TorchScript", "torch.jit.load"),
    "pt2": (exported, "exported program", "torch.export.load"),
    "ONNX": (onnx, "ONNX", "PyTorch model that it was made from"),
    "ONNX from PyTorch": (lambda: onnx(b"\x12\x07pytorch"), "ONNX", "it was made from"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + bytes(100), "GGUF", "it was made from"),
    "HDF5": (lambda: HDF5, "HDF5", "load it with Keras"),
    "HDF5 behind a user block": (lambda: bytes(512) + HDF5, "HDF5", "load it with Keras"),
    "Keras": (lambda: zipped("config.json", "model.weights.h5"), "zip archive", "state_dict"),
    "tar of POSIX": (lambda: tar(tarfile.USTAR_FORMAT), "tar archive", "unpack it"),
    "tar of GNU": (lambda: tar(tarfile.GNU_FORMAT), "tar archive", "unpack it"),
    "tar of pax": (lambda: tar(tarfile.PAX_FORMAT), "tar archive", "unpack it"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(100), "7z archive", "unpack it"),
    "zip around a checkpoint": (lambda: zipped("model.pth"), "zip archive", "state_dict"),
    "npz": (compressed_arrays, "npz", "as data"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_another_format_is_named_and_the_way_out_said(name, tmp_path):
    build, kind, remedy = FORMATS[name]
    (tmp_path / "sent.pt").write_bytes(build())
    with pytest.raises(CheckpointError) as caught, read_checkpoint(tmp_path / "sent.pt"):
        pass
    assert caught.value.code == "unsupported_format"
    assert kind in str(caught.value)
    assert remedy in str(caught.value)
