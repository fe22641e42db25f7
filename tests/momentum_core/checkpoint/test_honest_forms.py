"""Honest files in all the forms people publish them in are read, and equal to what torch reads."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from momentum_core.checkpoint import DEFAULT_LIMITS, read_checkpoint, write_safetensors
from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.pickle_values import Global, Inert, OrderedMapping, TensorRef
from momentum_core.checkpoint.tensor import ITEM_TYPES
from momentum_core.checkpoint.torch_legacy import read_torch_legacy
from momentum_core.checkpoint.torch_zip import read_torch_zip
from tests.corpus.torch_forms import Storage, Tensor, legacy_of, zip_of

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 5)
    )


def state() -> dict[str, torch.Tensor]:
    return network().state_dict()


def bits(tensor: torch.Tensor) -> np.ndarray:
    plain = tensor.detach().contiguous()
    return plain.view(_BITS[plain.element_size()]).numpy()


def assert_same(checkpoint, expected: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        stored = checkpoint.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        assert stored.read().tobytes() == bits(tensor).tobytes(), name
        assert b"".join(stored.chunks()) == bits(tensor).tobytes(), name


def optimizer_state() -> dict:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


SIDE_VALUES = {
    "epoch": 90,
    "best_acc1": torch.tensor(76.1),
    "best_np": np.float64(76.1),
    "history": [0.1, 0.2, {"loss": np.float32(0.5)}],
    "confusion": np.eye(3),
    "args": argparse.Namespace(arch="resnet18", lr=0.1, resume=None),
    "lr_scheduler": {"milestones": collections.Counter({30: 1}), "gammas": (0.1, 0.2)},
    "classes": {"ant", "bee"},
    "when": datetime.datetime(2024, 1, 2),
    "folder": pathlib.PurePosixPath("runs/7"),
    "device": torch.device("cuda", 1),
    "dtype": torch.float16,
    "rng": torch.get_rng_state(),
    "log": "x" * 100_000,
    "blob": b"\x00\xff" * 10,
    "complex": torch.zeros(3, dtype=torch.complex64),
    "big": 2**127,
}

FORMS = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, **SIDE_VALUES},
    "model and optimizer": lambda weights: {"model": weights, "optimizer": optimizer_state()},
    "nested twice": lambda weights: {"checkpoint": {"model_state_dict": weights, "step": 3}},
    "under an unknown key": lambda weights: {"classifier": weights, "epoch": 1},
    "model beside its average": lambda weights: {
        "model_ema": {name: tensor + 1 for name, tensor in weights.items()},
        "model": weights,
    },
    "scalars beside the tensors": lambda weights: {**weights, "epoch": 3, "arch": "resnet18"},
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_wrapped_weights_are_found(form, is_zip, tmp_path):
    path, weights = tmp_path / "sent", state()
    torch.save(FORMS[form](weights), path, _use_new_zipfile_serialization=is_zip)
    with read_checkpoint(path) as checkpoint:
        assert checkpoint.format == ("torch_zip" if is_zip else "torch_legacy")
        assert_same(checkpoint, weights)


def test_what_lies_beside_the_weights_is_named(tmp_path):
    torch.save({"state_dict": state(), **SIDE_VALUES}, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert set(checkpoint.ignored) == set(SIDE_VALUES)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_taken_off(prefix, tmp_path):
    weights = state()
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    weights = {"module.a": torch.ones(2), "b": torch.zeros(2)}
    torch.save(weights, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


_TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool),
)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_every_type_is_read_bit_for_bit(dtype, is_zip, tmp_path):
    weights = {
        "a": (torch.arange(60) % 2).to(dtype).reshape(3, 4, 5),
        "b": torch.ones((), dtype=dtype),
    }
    torch.save(weights, tmp_path / "sent", _use_new_zipfile_serialization=is_zip)
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)
    assert len(_TYPES) == len(ITEM_TYPES)


LAYOUTS = {
    "channels last": lambda: torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(6, 4).t(),
    "every second": lambda: torch.randn(20)[::2],
    "slice of a longer storage": lambda: torch.randn(20)[5:9],
    "permuted": lambda: torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2),
    "empty": lambda: torch.zeros(0, 3),
    "expanded along a dimension of one": lambda: torch.randn(4, 1).expand(4, 1),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_tensors_are_read_in_row_major_order(layout, is_zip, tmp_path):
    weights = {"a": LAYOUTS[layout](), "b": torch.ones(1)}
    torch.save(weights, tmp_path / "sent", _use_new_zipfile_serialization=is_zip)
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_tied_tensors_are_read_under_both_names(is_zip, tmp_path):
    shared = torch.randn(4, 5)
    weights = {"embedding": shared, "head": shared, "other": torch.ones(100)}
    torch.save(weights, tmp_path / "sent", _use_new_zipfile_serialization=is_zip)
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


def test_tied_tensors_are_written_once_for_each_name(tmp_path):
    shared = torch.randn(4, 5)
    weights = {"embedding": shared, "head": shared, "other": torch.ones(100)}
    torch.save(weights, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        write_safetensors(tmp_path / "canonical", checkpoint.tensors)
    read = safetensors.torch.load_file(tmp_path / "canonical")
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    read["head"].zero_()
    assert torch.equal(read["embedding"], shared)
    length = int.from_bytes((tmp_path / "canonical").read_bytes()[:8], "little")
    assert (tmp_path / "canonical").stat().st_size == 8 + length + 4 * (20 + 20 + 100)


LOCATIONS = ("cuda:0", "cuda:9999999", "mps", "xla:1", "meta", "hpu:0", "nowhere")


@pytest.mark.parametrize("location", LOCATIONS)
def test_where_a_tensor_was_does_not_matter(location, tmp_path):
    storage = Storage("0", 6, location=location)
    value, raw = {"a": Tensor(storage, (2, 3), (3, 1))}, np.arange(6, dtype=np.float32).tobytes()
    expected = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    for content in (zip_of(value, {"0": raw}).build(), legacy_of(value, {"0": (6, raw)})):
        (tmp_path / "sent").write_bytes(content)
        with read_checkpoint(tmp_path / "sent") as checkpoint:
            assert_same(checkpoint, expected)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_what_lies_beside_the_weights_is_never_built(is_zip, tmp_path):
    path = tmp_path / "sent"
    torch.save({"state_dict": state(), **SIDE_VALUES}, path, _use_new_zipfile_serialization=is_zip)
    read = read_torch_zip if is_zip else read_torch_legacy
    with path.open("rb") as file:
        value = read(ByteSource(file.fileno()), DEFAULT_LIMITS).value
    inert = ("args", "best_np", "confusion", "classes", "when", "folder", "device", "log")
    assert {type(value[name]) for name in inert} == {Inert}
    assert type(value["history"][2]["loss"]) is Inert
    assert type(value["dtype"]) is Global
    plain = (dict, list, tuple, str, int, float, bool, type(None), bytes)
    ours = (Inert, Global, OrderedMapping, TensorRef)

    def check(one: object) -> None:
        assert type(one) in plain + ours
        if isinstance(one, dict):
            one = list(one.items())
        for each in one if isinstance(one, list | tuple) else ():
            check(each)

    check(value)


def test_parts_of_one_storage_that_do_not_overlap_are_read(tmp_path):
    flat = torch.randn(30)
    weights = {"a": flat[:10], "b": flat[10:].view(4, 5)}
    torch.save(weights, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


def test_parameters_and_tensors_with_attributes_are_read(tmp_path):
    marked = torch.randn(3)
    marked.note = "x"
    weights = {"a": nn.Parameter(torch.randn(2, 2)), "b": marked, "c": nn.Parameter(marked.clone())}
    weights["c"].mark = 3
    torch.save(weights, tmp_path / "sent")
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert_same(checkpoint, weights)


def test_safetensors_are_read(tmp_path):
    weights = state()
    safetensors.torch.save_file(weights, tmp_path / "sent", metadata={"format": "pt"})
    with read_checkpoint(tmp_path / "sent") as checkpoint:
        assert checkpoint.format == "safetensors"
        assert_same(checkpoint, weights)


def test_what_is_written_is_what_the_reference_reads_and_is_always_the_same(tmp_path):
    weights = state() | {"half": torch.randn(3).half(), "brain": torch.randn(3, 2).bfloat16()}
    torch.save(weights, tmp_path / "sent")
    torch.save(dict(reversed(weights.items())), tmp_path / "again")
    for name in ("sent", "again"):
        with read_checkpoint(tmp_path / name) as checkpoint:
            write_safetensors(tmp_path / f"{name}.safetensors", checkpoint.tensors)
    read = safetensors.torch.load_file(tmp_path / "sent.safetensors")
    assert set(read) == set(weights)
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("sent", "again"))
    assert first == second


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_published_files_are_read_as_torch_reads_them(name, shared_data):
    expected = torch.load(shared_data / name, map_location="cpu", weights_only=True)
    with read_checkpoint(shared_data / name) as checkpoint:
        assert checkpoint.format == "torch_legacy"
        assert checkpoint.ignored == ("best_prec1",)
        weights = expected["state_dict"].items()
        assert_same(checkpoint, {key.removeprefix("module."): tensor for key, tensor in weights})
