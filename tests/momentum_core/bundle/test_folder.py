"""A bundle's folder: complete, checked, in the hub's layout, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from momentum_core import BundleDetails, ConversionConfig, convert, load, save
from momentum_core.architectures import build
from momentum_core.bundle import read_config
from momentum_core.conversion import plan_of
from momentum_core.errors import BundleError
from tests.conftest import ROOT
from tests.momentum_core.bundle.own_models import OwnModel

DETAILS = BundleDetails(
    architecture="cifar_resnet20", num_classes=4, results={"top-1": "91.10 %"}, source={"a": "`b`"}
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build("cifar_resnet20", num_classes=4)
    return convert(network, torch.zeros(2, 3, 32, 32), ConversionConfig(gamma=0.7)).eval()


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "bundle", DETAILS, further_files={"report.json": b"{}\n"})
    return tmp_path / "bundle"


def test_every_file_is_there_and_digests_fit(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "README.md", "load_example.py", "SHA256SUMS"),
        "report.json",
    }
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    assert checked.stdout.count(": OK") == len(names) - 1
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"], "nothing else is left"


def test_the_configuration_holds_the_whole_plan(folder, model):
    values = json.loads((folder / "config.json").read_text())
    assert (values["format"], values["schema"]) == ("momentum_zoo", 3)
    assert (values["architecture"], values["num_classes"]) == ("cifar_resnet20", 4)
    assert values["plan"] == plan_of(model).to_json()
    assert values["plan"]["memory"]["parts"]
    assert read_config(folder).plan == plan_of(model)
    assert read_config(folder).details == replace(DETAILS, results={})


def test_the_example_prints_the_logits_of_the_model(folder, model):
    command = [sys.executable, folder / "load_example.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert str(model(x)) in printed
    assert str(plan_of(model)) in printed


def test_the_example_of_an_architecture_without_a_name_takes_what_builds_it(tmp_path):
    torch.manual_seed(1)
    own = convert(OwnModel(), torch.zeros(2, 3, 5)).eval()
    save(own, tmp_path / "b", BundleDetails(input_shape=(3, 5)))
    builder = "tests.momentum_core.bundle.own_models:OwnModel"
    command = [sys.executable, tmp_path / "b" / "load_example.py", builder]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    ).stdout
    with torch.no_grad():
        x = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
        assert str(own(x)) in printed


def test_the_card_says_what_it_is_and_what_was_measured(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: momentum-zoo\n")
    assert "3 runs with 7 residual blocks" in card
    assert "gamma 7/10" in card
    assert "| top-1 | 91.10 % |" in card
    assert "`b`" not in card, "nothing in the source can end its block of code"


def test_a_changed_card_is_the_readers_own(folder, model):
    (folder / "README.md").write_text("mine")
    assert load(folder).plan == plan_of(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_changed_file_is_found_out(folder, name):
    content = bytearray((folder / name).read_bytes())
    place = content.rindex(b"0.") if name == "config.json" else len(content) - 1
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} has the SHA-256 .* changed or damaged"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_a_folder_that_lacks_a_file_is_refused(folder, name):
    (folder / name).unlink()
    if name == "config.json":
        # The weights file says the same; it is all that there is to check.
        assert load(folder).plan.runs
    else:
        with pytest.raises(BundleError, match=f"{name} cannot be read"):
            load(folder)


def _rewrite(folder, values):
    text = json.dumps(values)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in sums if not line.endswith("  config.json")]
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "config.json").write_text(text)
    (folder / "SHA256SUMS").write_text("\n".join([*kept, f"{digest}  config.json"]) + "\n")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"schema": 4, "versions": {"momentum-zoo": "9.1"}},
            r"schema 4.*update.*momentum-zoo 9\.1",
        ),
        ({"format": "onnx"}, "another program"),
        ({"plan": {}}, "damaged"),
        ({"architecture": "timm:hf-hub:someone/model"}, "no model of timm"),
        ({"architecture": "torchvision:resnet1"}, "did you mean resnet1"),
        ({"architecture": "torchvision:fcn_resnet50"}, "no classification model of torchvision"),
        ({"architecture": "cifar_resnet32"}, r"(?s)not those of SmallResNet.*layer1\.3"),
        ({"architecture": None}, r"load\(path, original=\.\.\.\)"),
    ],
)
def test_a_folder_of_a_later_version_or_another_program_is_refused(folder, change, match):
    _rewrite(folder, json.loads((folder / "config.json").read_text()) | change)
    with pytest.raises(BundleError, match=match):
        load(folder)


def test_the_folder_of_another_program_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(BundleError, match="another program"):
        load(tmp_path)


def test_nothing_is_overwritten_and_nothing_half_written(folder, model, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BundleError, match="not empty"):
        save(model, folder, DETAILS)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(BundleError, match="missing or has another shape"):
        save(model, tmp_path / "new", replace(DETAILS, num_classes=5))
    with pytest.raises(BundleError, match=r"further_files.*config\.json"):
        save(model, tmp_path / "new", DETAILS, further_files={"config.json": b""})
    with pytest.raises(BundleError, match="further_files"):
        save(model, tmp_path / "new", DETAILS, further_files={"../evil": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
