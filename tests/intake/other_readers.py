"""What torch, safetensors and numpy make of a file that we accept."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from momentum_core.checkpoint import read_dataset
from momentum_core.checkpoint.pickle_calls import INERT_PATHS
from tests.corpus.npz_files import arrays
from tests.intake.fuzz_bases import raw
from tests.intake.fuzz_child import digest_of

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def differs(kind: str, content: bytes, answer: Any, folder: Path) -> str | None:
    """Compare what we read in an accepted mutant with what another reader makes of it."""
    try:
        if kind == "safetensors":
            loaded: Any = safetensors.torch.load(content)
        elif kind in ("torch_zip", "torch_legacy"):
            loaded = _loaded_by_torch(content)
        elif kind == "npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                names = [one for one in arrays() if one.startswith("x") or one in archive.files]
                loaded = {name: archive[name] for name in names}
        else:
            return None
    except Exception as error:
        return f"refused: {type(error).__name__}: {' '.join(str(error).split())[:60]}"
    if kind == "npz":
        return _differs_in_arrays(content, answer, loaded, folder)
    if any(digest_of(one) == answer for one in _mappings(loaded)):
        return None
    return "other tensors than torch reads"


def _differs_in_arrays(
    content: bytes, answer: list[int], loaded: dict[str, Any], folder: Path
) -> str | None:
    (folder / "accepted").write_bytes(content)
    read = read_dataset(folder / "accepted")
    # A file may have no labels at all.
    largest = max((int(loaded[name].max()) for name in loaded if name.startswith("y")), default=-1)
    if answer != [len(loaded["x_train"]), len(loaded["x_test"]), largest + 1]:
        return "other facts than numpy's"
    same = all(np.array_equal(getattr(read, name), loaded[name]) for name in loaded)
    return None if same else "other arrays than numpy's"


def _loaded_by_torch(content: bytes) -> Any:
    """Load what torch takes; where only something beside the weights stops it, without that."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:
        return torch.load(
            io.BytesIO(content),
            map_location="cpu",
            weights_only=False,
            pickle_module=_LenientPickle,
        )


class _PassedOver:
    """What we pass over beside the weights, torch would build; a mutant may not let it."""

    def __new__(cls, *_: object) -> _PassedOver:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...

    def extend(self, _: object) -> None: ...

    append = update = extend


class _LenientPickle:
    """A pickle module for torch that builds tensors, and nothing of the rest."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            path = f"{module}.{name}"
            if path in INERT_PATHS and not path.startswith("torch."):
                return _PassedOver
            if path.startswith(("torch.", "collections.OrderedDict")):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"{path} is not on the list")

    load = staticmethod(pickle.load)
    loads = staticmethod(pickle.loads)


def _mappings(value: Any) -> Iterator[dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Yield every mapping of names to tensors in what torch read, with and without prefixes."""
    if not isinstance(value, dict):
        return
    tensors = {
        name: (_DTYPES[tensor.dtype], tuple(tensor.shape), raw(tensor))
        for name, tensor in value.items()
        if isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES
    }
    yield tensors
    while tensors and all(isinstance(name, str) and name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): one for name, one in tensors.items()}
        yield tensors
    for one in value.values():
        yield from _mappings(one)
