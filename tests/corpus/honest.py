"""Honest checkpoints of every classification network of torchvision, in the forms people use.

python -m tests.corpus.honest       reads every network in every form (an hour of disk)
"""

from __future__ import annotations

import argparse
import collections
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision

from momentum_core.checkpoint import Limits, read_checkpoint

MEBIBYTE = 1 << 20
Weights = dict[str, torch.Tensor]

# Networks beyond the default limits are read as well, by the command.
LARGE_ROOM = 6 << 30
LARGE = Limits(max_file_bytes=1 << 33, max_tensor_bytes=1 << 32)


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Build networks without drawing their weights: they are overwritten."""
    kept = {name: value for name, value in vars(torch.nn.init).items() if name.endswith("_")}
    for name in kept:
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        vars(torch.nn.init).update(kept)


@functools.cache
def shapes() -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    """Names, shapes and types of the weights of every network."""
    found = {}
    with without_initialisation():
        for name in torchvision.models.list_models(module=torchvision.models):
            options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            model = torchvision.models.get_model(name, weights=None, **options)
            found[name] = {
                key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()
            }
    return found


def names_up_to(max_bytes: int) -> list[str]:
    """Return the networks whose weights are no larger, the smallest first."""
    return sorted((name for name in shapes() if num_bytes(name) <= max_bytes), key=num_bytes)


def num_bytes(name: str) -> int:
    """Bytes of a network's weights."""
    return sum(shape.numel() * dtype.itemsize for shape, dtype in shapes()[name].values())


@functools.cache
def _pattern() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MEBIBYTE, generator=generator)


def weights(name: str) -> Weights:
    """Return weights of a network, each other ones, quickly."""
    made: Weights = {}
    for index, (key, (shape, dtype)) in enumerate(shapes()[name].items()):
        if not dtype.is_floating_point:
            made[key] = torch.full(shape, index, dtype=dtype)
            continue
        flat = torch.empty(shape.numel(), dtype=dtype)
        start = index * 4099 % MEBIBYTE
        source = _pattern()[start:]
        for at in range(0, len(flat), len(source)):
            piece = flat[at : at + len(source)]
            piece.copy_(source[: len(piece)])
        made[key] = flat.view(shape)
    return made


def cast(made: Weights, dtype: torch.dtype) -> Weights:
    return {key: one.to(dtype) if one.is_floating_point() else one for key, one in made.items()}


def channels_last(made: Weights) -> Weights:
    return {
        key: one.to(memory_format=torch.channels_last) if one.dim() == 4 else one
        for key, one in made.items()
    }


def _nested(made: Weights) -> object:
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "state_dict": collections.OrderedDict((f"module.{key}", one) for key, one in made.items()),
        "optimizer": optimizer,
        "epoch": 90,
        "best_acc1": np.float64(76.1),
        "args": argparse.Namespace(arch="x", lr=0.1),
    }


def _save_zip(made: Weights, path: Path) -> None:
    torch.save(made, path)


def _save_legacy(made: Weights, path: Path) -> None:
    torch.save(made, path, _use_new_zipfile_serialization=False)


FORMS: dict[str, Callable[[Weights, Path], None]] = {
    "zip": _save_zip,
    "legacy": _save_legacy,
    "nested": lambda made, path: torch.save(_nested(made), path),
    "fp16": lambda made, path: _save_zip(cast(made, torch.float16), path),
    "bf16": lambda made, path: _save_zip(cast(made, torch.bfloat16), path),
    "channels-last": lambda made, path: _save_zip(channels_last(made), path),
    "safetensors": lambda made, path: safetensors.torch.save_file(made, path),
}


def loaded_by_torch(form: str, path: Path) -> Weights:
    """What torch makes of the file."""
    if form == "safetensors":
        return safetensors.torch.load_file(path)
    if form == "nested":
        with torch.serialization.safe_globals(_BESIDE):
            loaded = torch.load(path, mmap=True, weights_only=True)["state_dict"]
        return {key.removeprefix("module."): one for key, one in loaded.items()}
    return torch.load(path, mmap=form != "legacy", weights_only=True)


_BESIDE = [np._core.multiarray.scalar, np.dtype, type(np.dtype(np.float64)), argparse.Namespace]


def differences(made: Weights, form: str, path: Path) -> list[str]:
    """Write weights in a form; return the names of those that we read otherwise than torch."""
    FORMS[form](made, path)
    expected = loaded_by_torch(form, path)
    with read_checkpoint(path, limits=LARGE) as checkpoint:
        if set(checkpoint.tensors) != set(expected):
            return sorted(set(checkpoint.tensors) ^ set(expected))
        return [
            key
            for key, tensor in checkpoint.tensors.items()
            if tensor.shape != tuple(expected[key].shape)
            or not _are_equal(tensor.chunks(), expected[key])
        ]


def _are_equal(pieces: Iterator[bytes], tensor: torch.Tensor) -> bool:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    at = 0
    for piece in pieces:
        found = np.frombuffer(piece, np.uint8)
        if not np.array_equal(found, raw[at : at + len(found)]):
            return False
        at += len(found)
    return at == len(raw)


def cases(*, all_forms_bytes: int, once_bytes: int) -> list[tuple[str, str]]:
    """Return pairs of network and form: all forms of small networks, of larger ones one in turn."""
    small = names_up_to(all_forms_bytes)
    large = [name for name in names_up_to(once_bytes) if name not in small]
    forms = list(FORMS)
    return [(name, form) for name in small for form in forms] + [
        (name, forms[index % len(forms)]) for index, name in enumerate(large)
    ]


def _memory() -> Path | None:
    """A folder in memory, where there is room: gigabytes are written that nobody keeps."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > LARGE_ROOM else None


def main() -> None:
    """Read networks in forms; fail if one differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--all-forms", type=int, default=8192, help="MiB; up to it in all forms")
    parser.add_argument("--once", type=int, default=8192, help="MiB; up to it in one form")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="number, of how many")
    options = parser.parse_args()
    chosen = cases(all_forms_bytes=options.all_forms * MEBIBYTE, once_bytes=options.once * MEBIBYTE)
    number, of = options.share
    names = list(dict.fromkeys(name for name, _ in chosen))[number::of]
    wrong = 0
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for name in names:
            made = weights(name)
            for form in (form for each, form in chosen if each == name):
                found = differences(made, form, Path(folder) / "weights")
                wrong += bool(found)
                sys.stdout.write(f"{name} {form} {num_bytes(name)} {found or 'equal'}\n")
                sys.stdout.flush()
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
