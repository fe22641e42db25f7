"""Weights by a library's name: torchvision's registry, timm's, and a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save
from torchvision import models

from momentum_core.architectures import (
    build_named,
    library_signature,
    named_input_shape,
    register_architecture,
)
from momentum_core.architectures.registered import register_by_path
from momentum_core.config import MeasurementConfig, Preprocessing
from momentum_core.errors import ArchitectureError, CheckpointError
from tests.conftest import ROOT
from tests.worker.local_hub import COMMIT, serving_hub
from worker.contract.inspection import NameQuestion
from worker.contract.intake import inspect_checkpoint
from worker.contract.request import ConvertRequest, Source
from worker.contract.zoo import ZooEntry
from worker.inspection import answer_any
from worker.library_zoo import Hub, find_entry
from worker.run_job import create_services, run_job
from worker.zoo import fetch_zoo_checkpoint

REPOSITORY = "lab/small"
CONFIGURATION = {
    "architecture": "regnetx_002",
    "num_classes": 5,
    "pretrained_cfg": {
        "input_size": [3, 176, 176],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "crop_pct": 0.88,
        "license": "mit",
    },
}


def small_weights(**options) -> bytes:
    torch.manual_seed(0)
    return save(timm.create_model("regnetx_002", num_classes=5, **options).state_dict())


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIGURATION).encode(),
        "model.safetensors": small_weights(),
    }


@pytest.fixture
def hub_server(files):
    with serving_hub(REPOSITORY, dict(files)) as server:
        yield server


@pytest.fixture
def hub(hub_server, tmp_path) -> Hub:
    return Hub(url=hub_server.url, folder=None, cache=tmp_path / "cache")


@pytest.fixture
def no_hub(tmp_path) -> Hub:
    return Hub(url="http://127.0.0.1:9", folder=None, cache=tmp_path / "cache")


def refusal(name: str, hub: Hub, error=ArchitectureError) -> str:
    with pytest.raises(error) as caught:
        find_entry(name, hub)
    return str(caught.value)


def test_torchvision_says_where_its_weights_are(no_hub):
    entry = find_entry("torchvision:convnext_tiny", no_hub)
    weights = models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1
    assert entry.name == "torchvision:convnext_tiny.IMAGENET1K_V1"
    assert (entry.url, entry.sha256_prefix) == (weights.url, "983f1562")
    assert (entry.num_classes, entry.image_size, entry.resize_size) == (1000, 224, 236)
    assert entry.published_top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert entry == ZooEntry.from_json(json.loads(json.dumps(entry.to_json())))
    assert find_entry(entry.name, no_hub) == replace(entry, is_default=False)
    assert "IMAGENET1K_V1" in refusal("torchvision:convnext_tiny.NO", no_hub)
    assert "convnext_tiny" in refusal("torchvision:convnext_tny", no_hub)
    assert "torchvision:" in refusal("other:x", no_hub)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_every_torchvision_classifier_with_weights_has_an_entry(no_hub):
    for name in models.list_models(module=models):
        entry = find_entry(f"torchvision:{name}", no_hub)
        assert len(entry.sha256_prefix) >= 8, name
        assert len(entry.preprocessing.mean) == 3, name


def test_weights_of_a_hub_are_pinned_to_a_commit(hub, hub_server, tmp_path):
    entry = find_entry(f"hf:{REPOSITORY}", hub)
    assert entry.name == f"hf:{REPOSITORY}@{COMMIT}"
    assert (entry.architecture, entry.num_classes) == ("timm:regnetx_002", 5)
    assert entry.preprocessing == Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (entry.image_size, entry.resize_size, entry.licence) == (176, 200, "mit")
    assert entry.sha256_prefix == hub_server.stated_digest
    path = fetch_zoo_checkpoint(entry, tmp_path / "zoo", base_url="http://127.0.0.1:9/mirror")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hub_server.stated_digest
    assert find_entry(f"hf:{REPOSITORY}@v1", hub).name == entry.name

    hub_server.paths.clear()
    assert fetch_zoo_checkpoint(entry, tmp_path / "zoo") == path
    assert hub_server.paths == []


def test_a_commit_that_was_fetched_needs_no_hub(hub, no_hub):
    entry = find_entry(f"hf:{REPOSITORY}", hub)
    away = replace(hub, url=no_hub.url)
    again = find_entry(entry.name, away)
    assert (again.name, again.architecture) == (entry.name, entry.architecture)
    assert "not to be had" in refusal(f"hf:{REPOSITORY}", away, CheckpointError)
    assert "not to be had" in refusal(f"hf:{REPOSITORY}@{'f' * 40}", away, CheckpointError)


def test_other_weights_than_the_hub_states_are_refused(hub, hub_server, tmp_path):
    hub_server.stated_digest = "0" * 64
    entry = find_entry(f"hf:{REPOSITORY}", hub)
    with pytest.raises(CheckpointError) as caught:
        fetch_zoo_checkpoint(entry, tmp_path / "zoo")
    assert caught.value.code == "checksum_mismatch"
    assert list((tmp_path / "zoo").glob("*.safetensors")) == []


def test_a_copy_in_the_operators_folder_goes_first(no_hub, files, tmp_path):
    copy = tmp_path / "hub" / REPOSITORY
    copy.mkdir(parents=True)
    for name, content in files.items():
        (copy / name).write_bytes(content)
    hub = replace(no_hub, folder=tmp_path / "hub")
    entry = find_entry(f"hf:{REPOSITORY}", hub)
    assert entry.name == f"hf:{REPOSITORY}"
    assert fetch_zoo_checkpoint(entry, tmp_path / "zoo") == copy / "model.safetensors"
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        fetch_zoo_checkpoint(entry, tmp_path / "zoo")


@pytest.mark.parametrize(
    ("configuration", "word"),
    [
        (b"[]", "no JSON object"),
        (b"{", "no JSON object"),
        (json.dumps({"model_type": "resnet"}).encode(), "not timm's"),
        (json.dumps(CONFIGURATION | {"num_classes": "x"}).encode(), "not timm's"),
    ],
)
def test_a_repository_of_another_kind_is_refused(files, tmp_path, configuration, word):
    with serving_hub(REPOSITORY, files | {"config.json": configuration}) as server:
        hub = Hub(url=server.url, folder=None, cache=tmp_path / "cache")
        assert word in refusal(f"hf:{REPOSITORY}", hub)


def test_a_repository_without_safetensors_or_of_no_name_is_refused(files, tmp_path):
    with serving_hub(REPOSITORY, {"config.json": files["config.json"]}) as server:
        hub = Hub(url=server.url, folder=None, cache=tmp_path / "cache")
        assert "lacks model.safetensors" in refusal(f"hf:{REPOSITORY}", hub)
        assert "RepositoryNotFound" in refusal("hf:lab/other", hub, CheckpointError)
        for name in ("hf:../x", "hf:a/b/c", "hf:a", "hf:a/../b", "hf:a/b@x y", "timm:resnet50@a b"):
            refusal(name, hub)


def test_timms_names_lead_to_its_repositories(tmp_path, files):
    with serving_hub("timm/regnetx_002.pycls_in1k", files) as server:
        hub = Hub(url=server.url, folder=None, cache=tmp_path / "cache")
        entry = find_entry("timm:regnetx_002.pycls_in1k", hub)
        assert entry.name == f"hf:timm/regnetx_002.pycls_in1k@{COMMIT}"
        assert find_entry("timm:regnetx_002", hub) == entry
        assert "resnet50" in refusal("timm:resnet50.no_such_tag", hub)


def test_a_job_converts_weights_of_a_hub(hub_server, settings, store):
    services = create_services(
        settings.model_copy(update={"hub_url": hub_server.url}), worker="test:1"
    )
    entry = find_entry(f"hf:{REPOSITORY}", services.workplace.sources._hub)
    request = ConvertRequest(
        source=Source(zoo=entry.name),
        measurement=MeasurementConfig(batch_size=2, image_size=64, repeats=1, rivals=False),
    )
    job = store.submit(request, tenant="default")
    run_job(job.id, services)
    found = store.get(job.id, tenant="default")
    assert found.error is None
    assert found.result["architecture"] == "timm:regnetx_002"
    assert found.result["num_classes"] == 5


def test_weights_are_checked_against_a_signature(tmp_path):
    signature = library_signature("timm:regnetx_002")
    assert (signature.num_classes, signature.in_channels, signature.image_side) == (1000, 3, 224)
    assert signature.class_tensors == ("head.fc.weight", "head.fc.bias")
    source = tmp_path / "weights"
    source.write_bytes(small_weights())
    arguments = {"architecture": "timm:regnetx_002", "signature": signature}
    facts = inspect_checkpoint(source, tmp_path / "out", **arguments)
    assert (facts.architecture, facts.num_classes) == ("timm:regnetx_002", 5)
    model = build_named("timm:regnetx_002", num_classes=5)
    assert facts.num_parameters == sum(one.numel() for one in model.parameters())
    source.write_bytes(save(timm.create_model("resnet18").state_dict()))
    with pytest.raises(
        ArchitectureError, match=r"do not fit timm:regnetx_002: missing: stem\.conv"
    ):
        inspect_checkpoint(source, tmp_path / "out", **arguments)
    assert library_signature("resnet18") is None
    with pytest.raises(ArchitectureError):
        library_signature("no_such")


def test_what_only_a_worker_knows_is_answered(hub):
    entry = answer_any(NameQuestion(kind="zoo_entry", name=f"hf:{REPOSITORY}"), hub)
    assert ZooEntry.from_json(entry).architecture == "timm:regnetx_002"
    told = answer_any(NameQuestion(kind="architecture", name="torchvision:swin_t"), hub)
    assert told["class_tensors"] == ("head.weight", "head.bias")


class Tiny(torch.nn.Module):
    """Somebody's own network."""

    input_shape = (1, 16, 16)

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def test_an_architecture_of_ones_own():
    register_architecture("tiny", Tiny)
    signature = library_signature("own:tiny")
    assert (signature.num_classes, signature.in_channels, signature.image_side) == (3, 1, 16)
    assert build_named("own:tiny", num_classes=9).head.out_features == 9
    register_by_path("by_path", "tests.worker.test_library_zoo:Tiny")
    assert named_input_shape("own:by_path") == (1, 16, 16)
    with pytest.raises(ArchitectureError, match="did you mean own:tiny"):
        build_named("own:tinny")
    with pytest.raises(ArchitectureError, match="cannot be imported"):
        register_by_path("x", "no_such_module:build")
    register_architecture("no_module", dict)
    with pytest.raises(ArchitectureError, match=r"no torch\.nn\.Module"):
        build_named("own:no_module")


def test_a_package_registers_its_own_by_an_entry_point(tmp_path):
    (tmp_path / "nets.py").write_text("from torchvision.models import resnet18 as build\n")
    information = tmp_path / "nets-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nets\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[momentum_zoo.architectures]\nmine = nets:build\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from momentum_core.architectures import build_named\n"
        "print(type(build_named('own:mine', num_classes=4)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ResNet"


@pytest.mark.parametrize("name", ["torchvision:swin_t", "torchvision:no_such"])
def test_a_command_is_told_without_a_service(name):
    command = [sys.executable, "-m", "worker.tell_name", "architecture", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    if name.endswith("swin_t"):
        assert told["answer"]["num_classes"] == 1000
    else:
        assert told["error"]["code"] == "unknown_architecture"
