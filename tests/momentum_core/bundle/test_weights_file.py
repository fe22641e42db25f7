"""A weights file loads alone, files of older schemas do, and what is none is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from momentum_core import BundleDetails, ConversionConfig, Preprocessing, convert, load
from momentum_core.architectures import build
from momentum_core.bundle import read_config, save_weights
from momentum_core.conversion import plan_of
from momentum_core.errors import BundleError, ConversionError

DETAILS = BundleDetails(
    architecture="cifar_resnet20",
    num_classes=4,
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    source={"sha256": "ab" * 32, "ignored": []},
)
SCHEMA_1 = {
    "schema": 1,
    "architecture": "cifar_resnet20",
    "num_classes": 4,
    "conversion": {"gamma": 0.7, "scheme": "compensated"},
    "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
}


@pytest.fixture(scope="module")
def converted() -> torch.nn.Module:
    torch.manual_seed(0)
    network, x = build("cifar_resnet20", num_classes=4), torch.zeros(2, 3, 32, 32)
    return convert(network, x, ConversionConfig(gamma=0.7)).eval()


@pytest.fixture
def saved(tmp_path, converted) -> tuple[Path, torch.nn.Module]:
    model = copy.deepcopy(converted)
    save_weights(tmp_path / "model.safetensors", model, DETAILS)
    return tmp_path, model


def test_the_file_alone_loads_and_says_what_it_is(saved):
    folder, model = saved
    config = read_config(folder / "model.safetensors")
    assert config.details == DETAILS
    assert config.plan == plan_of(model)
    assert config.versions["torch"] == torch.__version__.partition("+")[0]
    loaded = load(folder / "model.safetensors")
    assert loaded.plan.runs[0].gamma.denominator == 10
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_the_weights_load_into_the_original_architecture(saved):
    folder, _ = saved
    build("cifar_resnet20", num_classes=4).load_state_dict(load_file(folder / "model.safetensors"))


def test_saving_and_loading_leave_the_callers_random_numbers(saved):
    folder, model = saved
    torch.manual_seed(5)
    save_weights(folder / "again.safetensors", model, DETAILS)
    load(folder)
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))


def test_a_model_that_was_not_converted_is_not_saved(tmp_path):
    with pytest.raises(ConversionError):
        save_weights(tmp_path / "x.safetensors", build("cifar_resnet20", num_classes=4), DETAILS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("details", "match"),
    [
        (replace(DETAILS, num_classes=5), r"linear\.weight is missing or has another shape"),
        (replace(DETAILS, architecture="cifar_resnet32"), r"layer1\.3"),
        (replace(DETAILS, architecture="cifar_resnet21"), "did you mean cifar_resnet32"),
        (replace(DETAILS, source={"a": object()}), "no JSON"),
    ],
)
def test_details_that_do_not_fit_the_model_are_refused_before_anything_is_written(
    saved, tmp_path, details, match
):
    _, model = saved
    (tmp_path / "new").mkdir()
    with pytest.raises(BundleError, match=match):
        save_weights(tmp_path / "new" / "model.safetensors", model, details)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({}, "no 'momentum_zoo'"),
        ({"momentum_zoo": "{"}, "damaged"),
        ({"momentum_zoo": json.dumps({"schema": 99})}, "schema 99.*update momentum-zoo"),
        ({"momentum_zoo": json.dumps({"schema": 0})}, "damaged"),
        ({"momentum_zoo": json.dumps({"model_type": "bert"})}, "another program"),
        ({"momentum_zoo": json.dumps(SCHEMA_1 | {"conversion": {"gamma": 2}})}, "gamma"),
        ({"momentum_zoo": json.dumps(SCHEMA_1 | {"architecture": "vgg"})}, "vgg"),
        ({"momentum_zoo": json.dumps(SCHEMA_1)}, "cannot be loaded"),
    ],
)
def test_what_is_not_a_momentum_model_is_refused(tmp_path, metadata, match):
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


@pytest.mark.parametrize("with_rules", [False, True])
def test_files_of_the_first_schemas_still_load(saved, tmp_path, with_rules):
    folder, model = saved
    if with_rules:
        rules = [replace(run.rule, offsets=(0.1,) * 3) for run in plan_of(model).runs[:1]]
        rules += [run.rule for run in plan_of(model).runs[1:]]
        network = build("cifar_resnet20", num_classes=4)
        network.load_state_dict(load_file(folder / "model.safetensors"))
        model = convert(network, plan=plan_of(model).with_rules(rules)).eval()
        old = SCHEMA_1 | {"schema": 2, "rules": [rule.to_json() for rule in rules]}
    else:
        old = SCHEMA_1
    (tmp_path / "old").mkdir()
    save_file(
        load_file(folder / "model.safetensors"),
        tmp_path / "old" / "model.safetensors",
        metadata={"momentum_zoo": json.dumps(old)},
    )
    x = torch.randn(2, 3, 32, 32)
    assert read_config(tmp_path / "old").details.preprocessing == DETAILS.preprocessing
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "old")(x), model(x))
