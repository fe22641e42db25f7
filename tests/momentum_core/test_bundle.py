"""A saved momentum model loads again, and anything else is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from momentum_core import ConversionConfig, Preprocessing, convert, load
from momentum_core.architectures import build
from momentum_core.bundle import BundleConfig, read_config, save_weights
from momentum_core.errors import BundleError, ConversionError

CONFIG = BundleConfig(
    architecture="cifar_resnet20",
    num_classes=4,
    conversion=ConversionConfig(gamma=0.7),
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
)


@pytest.fixture
def saved(tmp_path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = convert(
        build("cifar_resnet20", num_classes=4), torch.zeros(2, 3, 32, 32), CONFIG.conversion
    ).eval()
    save_weights(tmp_path / "model.safetensors", model, CONFIG)
    return tmp_path, model


def test_a_fresh_process_gets_the_same_logits(saved, tmp_path):
    folder, model = saved
    x = torch.randn(2, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    program = (
        "import sys, torch, momentum_core\n"
        "m = momentum_core.load(sys.argv[1])\n"
        "with torch.no_grad(): y = m(torch.load(sys.argv[1] + '/x.pt'))\n"
        "torch.save(y, sys.argv[1] + '/y.pt')"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, cwd=root)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), model(x))


def test_the_file_alone_loads_and_says_what_it_is(saved):
    folder, _ = saved
    assert read_config(folder / "model.safetensors") == CONFIG
    assert load(folder / "model.safetensors").plan.runs[0].gamma.denominator == 10


def test_the_weights_load_into_the_original_architecture(saved):
    folder, _ = saved
    build("cifar_resnet20", num_classes=4).load_state_dict(load_file(folder / "model.safetensors"))


def test_a_model_that_was_not_converted_is_not_saved(tmp_path):
    with pytest.raises(ConversionError):
        save_weights(tmp_path / "x.safetensors", build("cifar_resnet20", num_classes=4), CONFIG)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({}, "no 'momentum_zoo'"),
        ({"momentum_zoo": "{"}, "damaged"),
        ({"momentum_zoo": json.dumps({"schema": 99})}, "schema"),
        ({"momentum_zoo": json.dumps(CONFIG.to_json() | {"conversion": {"gamma": 2}})}, "gamma"),
        ({"momentum_zoo": json.dumps(CONFIG.to_json() | {"architecture": "vgg"})}, "vgg"),
        ({"momentum_zoo": json.dumps(CONFIG.to_json())}, "cannot be loaded"),
    ],
)
def test_what_is_not_a_bundle_is_refused(tmp_path, metadata, match):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(BundleError, match=match):
        load(tmp_path)


def test_a_missing_or_cut_file_is_refused(tmp_path, saved):
    with pytest.raises(BundleError, match="cannot be read"):
        load(tmp_path / "nowhere")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="cannot be read"):
        load(tmp_path / "cut.safetensors")


def test_a_file_of_the_first_schema_still_loads(saved, tmp_path):
    folder, model = saved
    old = {key: value for key, value in CONFIG.to_json().items() if key != "rules"} | {"schema": 1}
    (tmp_path / "old").mkdir()
    save_file(
        load_file(folder / "model.safetensors"),
        tmp_path / "old" / "model.safetensors",
        metadata={"momentum_zoo": json.dumps(old)},
    )
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "old")(x), model(x))
