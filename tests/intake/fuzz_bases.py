"""The honest files that mutants are made of, small, as the usual programs write them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from tests.corpus.archive_files import images, tar_of
from tests.corpus.image_files import folder_of, honest_png, pixels, saved
from tests.corpus.npz_files import arrays
from tests.corpus.torch_forms import Call, Ref, Storage, Tensor, legacy_of

_STORAGES = {
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.bool: "BoolStorage",
}


def write_bases(folder: Path, kind: str) -> None:
    """Write the honest files that mutants are made of."""
    for index, content in enumerate(bases(kind)):
        (folder / f"{kind}-{index}").write_bytes(content)


def bases(kind: str) -> list[bytes]:
    """Return small honest files of a format, as the usual programs write them."""
    if kind == "torch_zip":
        made = []
        for value in (weights(), {"state_dict": weights(), "epoch": 3, "best": np.float64(0.5)}):
            file = io.BytesIO()
            torch.save(value, file)
            made.append(file.getvalue())
        return made
    if kind == "torch_legacy":
        # torch names storages after their addresses, which would make each run another one.
        tensors, storages = stored_weights()
        beside = {"epoch": 3, "best": Call(Ref("numpy._core.multiarray", "scalar"), (b"", b""))}
        wrapped = {"state_dict": tensors, **beside}
        return [legacy_of(value, storages) for value in (tensors, wrapped)]
    if kind == "safetensors":
        plain = {name: tensor.contiguous().clone() for name, tensor in weights().items()}
        return [safetensors.torch.save(plain), safetensors.torch.save(plain, {"format": "pt"})]
    if kind == "npz":
        made = []
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, **arrays())
            made.append(file.getvalue())
        return made
    picture = Image.fromarray(pixels(0, 16))
    return {
        "zip_folder": [folder_of(images(6, 2, "ab"))],
        "tar_folder": [tar_of(images(6, 2, "ab"))],
        "png": [honest_png(), saved(picture, "PNG"), saved(picture.convert("P"), "PNG")],
        "jpeg": [saved(picture, "JPEG"), saved(picture.convert("CMYK"), "JPEG", progressive=True)],
        "webp": [saved(picture, "WEBP"), saved(picture.convert("RGBA"), "WEBP", lossless=True)],
    }[kind]


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tied = torch.randn(3)
    return {
        "a.weight": torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "a.bias": torch.randn(2).half(),
        "b": torch.randn(4, 3).t().bfloat16(),
        "tied.one": tied,
        "tied.two": tied,
        "num": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }


def stored_weights() -> tuple[dict[str, Tensor], dict[str, tuple[int, bytes]]]:
    """The same as they lie in a file."""
    tensors: dict[str, Tensor] = {}
    storages: dict[str, tuple[int, bytes]] = {}
    keys: dict[int, Storage] = {}
    for name, tensor in weights().items():
        flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        kind = _STORAGES[tensor.dtype]
        storage = keys.setdefault(flat.data_ptr(), Storage(str(len(keys)), len(flat), kind))
        storages[storage.key] = (len(flat), raw(flat))
        tensors[name] = Tensor(storage, tuple(tensor.shape), tensor.stride())
    return tensors, storages


def raw(tensor: torch.Tensor) -> bytes:
    """Bytes of a tensor, in row-major order."""
    # A copy: one element may have any stride, which `contiguous` leaves and `view` refuses.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()
