"""A job's files: weights, bundle, report, each as it was verified."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from momentum_core.architectures import build
from tests.worker.digits import DIGITS
from worker import packaging
from worker.contract.job import JobState
from worker.contract.request import ConvertRequest
from worker.contract.zoo import find_zoo_entry
from worker.zoo import shipped_dataset


def test_the_shipped_network_is_converted_refined_and_packaged(run, store, file_of):
    job = run(DIGITS)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    report = json.loads(file_of(job, "report.json").read_text())

    top1 = {
        model: report["accuracy"][model]["top1_percent"]
        for model in ("original", "converted", "refined")
    }
    assert top1["original"] == pytest.approx(99.2, abs=0.05)
    assert top1["converted"] < top1["refined"]
    assert top1["refined"] > 98
    assert job.result["top1_percent"] == top1
    memory = report["memory"]
    assert memory["momentum"]["activation_bytes"] < 0.3 * memory["original"]["activation_bytes"]
    assert memory["momentum"]["peak_bytes"] < 0.6 * memory["original"]["peak_bytes"]
    assert memory["original"]["parameter_bytes"] == memory["momentum"]["parameter_bytes"]
    assert memory["ratios"]["seconds"] == pytest.approx(
        memory["momentum"]["seconds"] / memory["original"]["seconds"]
    )
    assert report["verification"]["max_logit_difference"] == 0
    assert [len(one["blocks"]) for one in report["plan"]["runs"]] == [6, 5]
    assert report["source"]["zoo"]["name"] == "digits_resnet26.DIGITS"

    stages = [event.data["stage"] for event in store.events_of(job.id) if event.kind == "stage"]
    assert stages == [
        "loading",
        "planning",
        "converting",
        "measuring",
        "evaluating",
        "refining",
        "evaluating",
        "packaging",
    ]


def test_the_weights_file_gives_the_evaluated_logits_in_a_fresh_process(run, file_of, tmp_path):
    job = run(DIGITS)
    program = (
        "import sys, momentum_core, torch\n"
        "from momentum_core.checkpoint import read_dataset\n"
        "from momentum_core.bundle import read_config\n"
        "from momentum_core.refinement import evaluate\n"
        "from safetensors.torch import save_file\n"
        "from pathlib import Path\n"
        "weights, data, out = sys.argv[1:]\n"
        "model, dataset = momentum_core.load(weights), read_dataset(Path(data))\n"
        "preprocessing = read_config(weights).details.preprocessing\n"
        "logits = evaluate(model, dataset.x_test, dataset.y_test, preprocessing).logits\n"
        "save_file({'logits': logits}, out)\n"
    )
    out = tmp_path / "logits.safetensors"
    data = shipped_dataset(find_zoo_entry("digits_resnet26"))
    subprocess.run(
        [sys.executable, "-c", program, file_of(job, "model.safetensors"), data, out], check=True
    )
    expected = load_file(file_of(job, "evaluation.safetensors"))["refined"]
    assert (load_file(out)["logits"] - expected).abs().max() <= 1e-4


def test_the_bundle_says_it_all_and_runs_by_itself(run, store, file_of, tmp_path):
    job = run(DIGITS)
    with zipfile.ZipFile(file_of(job, "bundle.zip")) as archive:
        archive.extractall(tmp_path / "unpacked")
    [folder] = (tmp_path / "unpacked").iterdir()
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=False)
    assert done.returncode == 0
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "load_example.py", "SHA256SUMS"),
        *("report.json", "report.html", "report.csv", "recipe.json", "history.json"),
    }
    assert (folder / "report.json").read_text() == file_of(job, "report.json").read_text()
    recipe = json.loads((folder / "recipe.json").read_text())
    assert ConvertRequest.from_json(recipe) == DIGITS
    assert f"{job.result['top1_percent']['refined']:.2f} %" in (folder / "README.md").read_text()
    example = [sys.executable, folder / "load_example.py"]
    printed = subprocess.run(example, capture_output=True, text=True, check=True).stdout
    assert "tensor([[" in printed


def test_the_original_form_loads_into_the_original_architecture(run, file_of):
    job = run(DIGITS)
    weights = load_file(file_of(job, "original.safetensors"))
    network = build("digits_resnet26", num_classes=10)
    network.load_state_dict(weights, strict=True)
    momentum = load_file(file_of(job, "model.safetensors"))
    assert all(torch.equal(momentum[name], weights[name]) for name in weights)


def test_a_bundle_that_does_not_give_the_networks_logits_is_not_published(run, store, monkeypatch):
    save = packaging.save

    def damaged(network, *arguments, **options):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.linear.bias[0] += 0.01
        return save(other, *arguments, **options)

    monkeypatch.setattr(packaging, "save", damaged)
    job = run(DIGITS)
    assert (job.state, job.error.code) == (JobState.FAILED, "verification_failed")
    assert "bundle.zip" in job.error.message
    assert store.artifacts_of(job.id) == []


def test_weights_that_do_not_give_the_networks_logits_are_not_published(run, store, monkeypatch):
    save = packaging.save_weights

    def damaged(path, network, details):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.linear.bias[0] += 0.01
        save(path, other, details)

    monkeypatch.setattr(packaging, "save_weights", damaged)
    job = run(DIGITS)
    assert (job.state, job.error.code) == (JobState.FAILED, "verification_failed")
    assert store.artifacts_of(job.id) == []
