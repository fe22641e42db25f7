"""Mutated files of each format, read in long-lived children and compared with the other readers.

python -m tests.intake.fuzzing [COUNT [SEED]]       100,000 of each format, as a report
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from momentum_core.checkpoint import read_dataset
from momentum_core.checkpoint.pickle_calls import INERT_PATHS
from tests.conftest import ROOT
from tests.corpus.archive_files import images, tar_of
from tests.corpus.image_files import folder_of, honest_png, pixels, saved
from tests.corpus.npz_files import arrays
from tests.corpus.torch_forms import Call, Ref, Storage, Tensor, legacy_of
from tests.intake.fuzz_child import digest_of
from tests.intake.mutants import MUTATORS, Series

MAX_SECONDS = 2.0
MAX_BYTES = 256 << 20
KINDS = tuple(MUTATORS)
CODES = frozenset(
    {
        *("accepted", "unsupported_format", "checksum_mismatch", "truncated_file"),
        *("malformed_file", "unsafe_pickle", "unsafe_archive", "too_many_tensors"),
        *("tensor_out_of_bounds", "tensor_aliasing", "tensor_too_large", "bad_tensor_name"),
        *("unsupported_dtype", "non_finite_weights", "too_complex", "unsafe_path"),
        *("too_many_files", "expands_too_large", "bad_image", "image_too_large", "no_images"),
        "invalid_data",
    }
)
"""What may come of a file."""

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
_STORAGES = {
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.bool: "BoolStorage",
}


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


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a series.

    Attributes:
        codes: how many files by what came of them.
        failures: numbers of mutants, and what went wrong with each.
        slowest: seconds and number of the slowest one.
        compared: how many accepted ones another reader read as well.
        refused_elsewhere: accepted ones that the other reader refuses, by its reason.
        peak_bytes: memory of the child.
    """

    codes: dict[str, int]
    failures: list[tuple[int, str]]
    slowest: tuple[float, int]
    compared: int
    refused_elsewhere: dict[str, int]
    peak_bytes: int

    @property
    def is_good(self) -> bool:
        """Whether every file was taken or refused properly, soon, and as the other reader does."""
        is_known = set(self.codes) <= CODES and not self.failures and not self.refused_elsewhere
        return is_known and self.slowest[0] <= MAX_SECONDS and self.peak_bytes <= MAX_BYTES


def fuzz(kind: str, count: int, *, seed: int = 0) -> Report:
    """Read `count` mutants of a format in a child of their own, compare those it accepts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bases(folder, kind)
        command = [
            sys.executable,
            "-m",
            "tests.intake.fuzz_child",
            name,
            kind,
            str(count),
            str(seed),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            at = int((folder / f"{kind}.at").read_text())
            last = done.stderr.strip().splitlines()[-1:]
            failure = (at, f"the child ended with {done.returncode}: {last}")
            return Report({}, [failure], (0.0, -1), 0, {}, 0)
        found = json.loads(done.stdout)
        failures = [tuple(one) for one in found["failures"]]
        compared, refused = 0, {}
        for number, answer in found["accepted"]:
            difference = differs(kind, Series.of(folder, kind, seed)[number], answer, folder)
            if difference is None:
                compared += 1
            elif difference.startswith("refused: "):
                refused[difference] = refused.get(difference, 0) + 1
            else:
                failures.append((number, difference))
        slowest, peak_bytes = tuple(found["slowest"]), found["peak_bytes"]
        return Report(found["codes"], failures, slowest, compared, refused, peak_bytes)


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


def stored_weights() -> tuple[dict[str, Tensor], dict[str, tuple[int, bytes]]]:
    """The same as they lie in a file."""
    tensors: dict[str, Tensor] = {}
    storages: dict[str, tuple[int, bytes]] = {}
    keys: dict[int, Storage] = {}
    for name, tensor in weights().items():
        flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        kind = _STORAGES[tensor.dtype]
        storage = keys.setdefault(flat.data_ptr(), Storage(str(len(keys)), len(flat), kind))
        storages[storage.key] = (len(flat), _raw(flat))
        tensors[name] = Tensor(storage, tuple(tensor.shape), tensor.stride())
    return tensors, storages


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


def differs(kind: str, content: bytes, answer: Any, folder: Path) -> str | None:
    """Compare what we read in an accepted mutant with what another reader makes of it."""
    try:
        if kind == "safetensors":
            loaded: Any = safetensors.torch.load(content)
        elif kind in ("torch_zip", "torch_legacy"):
            loaded = _loaded_by_torch(content)
        elif kind == "npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                loaded = {name: archive[name] for name in arrays()}
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
    labels = max(loaded["y_train"].max(), loaded["y_test"].max())
    if answer != [len(loaded["x_train"]), len(loaded["x_test"]), int(labels) + 1]:
        return "other facts than numpy's"
    same = all(np.array_equal(getattr(read, name), loaded[name]) for name in loaded)
    return None if same else "other arrays than numpy's"


def _mappings(value: Any) -> Iterator[dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Yield every mapping of names to tensors in what torch read, with and without prefixes."""
    if not isinstance(value, dict):
        return
    tensors = {
        name: (_DTYPES[tensor.dtype], tuple(tensor.shape), _raw(tensor))
        for name, tensor in value.items()
        if isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES
    }
    yield tensors
    while tensors and all(isinstance(name, str) and name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): one for name, one in tensors.items()}
        yield tensors
    for one in value.values():
        yield from _mappings(one)


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def main() -> None:
    """Print a report of long series; fail if something is wrong."""
    count, seed = ([int(one) for one in sys.argv[1:]] + [100_000, 0][len(sys.argv) - 1 :])[:2]
    is_good = True
    with ThreadPoolExecutor(2) as pool:
        for kind, report in zip(
            KINDS, pool.map(lambda one: fuzz(one, count, seed=seed), KINDS), strict=True
        ):
            is_good = is_good and report.is_good
            sys.stdout.write(f"{kind}: {'good' if report.is_good else 'WRONG'}, {report}\n")
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
