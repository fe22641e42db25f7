"""One job in this process, with the real record, store, intake and networks."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy.exc import OperationalError

import momentum_core
from momentum_core.architectures import build
from momentum_core.checkpoint import read_dataset
from momentum_core.config import (
    ConversionConfig,
    FinetuningConfig,
    MeasurementConfig,
    RefinementConfig,
    RefinementGoal,
)
from momentum_core.errors import DataError
from momentum_core.refinement import evaluate
from worker import conversion_job, packaging, refining
from worker.active_job import ActiveJob
from worker.contract.job import JobState, Upload
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims
from worker.contract.job_store import new_id
from worker.contract.request import ConvertRequest, DataSource, Source
from worker.contract.zoo import find_zoo_entry
from worker.run_job import run_job
from worker.zoo import shipped_dataset

DIGITS = ConvertRequest(
    source=Source(zoo="digits_resnet26"),
    measurement=MeasurementConfig(batch_size=16, repeats=1, rivals=False, predict=False),
    # Calibration alone would meet any goal here: there would be nothing left to train.
    refinement=RefinementConfig(
        max_steps=12, batch_size=64, learning_rate=0.01, calibrate=False, goal=None
    ),
)
DATASET = read_dataset(shipped_dataset(find_zoo_entry("digits_resnet26")))
PREPROCESSING = find_zoo_entry("digits_resnet26").preprocessing


@pytest.fixture
def run(services, store):
    def run(request: ConvertRequest, **uploads):
        job = store.submit(request, tenant="default", **uploads)
        run_job(job.id, services)
        return store.get(job.id, tenant="default")

    return run


@pytest.fixture
def file_of(services, store):
    def find(job, name):
        [digest] = [one.sha256 for one in store.artifacts_of(job.id) if one.name == name]
        return services.workplace.files.path_of(digest)

    return find


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


def test_the_weights_are_the_original_architectures_and_better_than_at_the_start(run, file_of):
    job = run(DIGITS)
    logits = load_file(file_of(job, "evaluation.safetensors"))
    teacher = torch.log_softmax(logits["original"], 1)

    def divergence(name):
        return torch.nn.functional.kl_div(
            torch.log_softmax(logits[name], 1), teacher, reduction="batchmean", log_target=True
        )

    assert divergence("refined") < divergence("converted")


def test_the_same_request_gives_the_same_weights(run, store):
    first, second = run(DIGITS), run(DIGITS)
    other = run(replace(DIGITS, seed=1))

    def weights(job):
        digests = {one.name: one.sha256 for one in store.artifacts_of(job.id)}
        return digests["model.safetensors"], digests["original.safetensors"]

    assert weights(first) == weights(second)
    assert not set(weights(first)) & set(weights(other))


def test_without_refinement_the_weights_stay(run, file_of):
    job = run(replace(DIGITS, refinement=None))
    logits = load_file(file_of(job, "evaluation.safetensors"))
    assert torch.equal(logits["converted"], logits["refined"])
    # The same conversion, done by hand.
    loaded = momentum_core.load(file_of(job, "model.safetensors"))
    again = evaluate(loaded, DATASET.x_test, DATASET.y_test, PREPROCESSING)
    assert torch.equal(again.logits, logits["converted"])


def test_a_job_says_what_became_of_its_goal(run, file_of):
    goal = RefinementGoal(metric="agreement", tolerable_loss=2)
    job = run(
        replace(
            DIGITS,
            conversion=ConversionConfig(gamma=0.9),
            refinement=RefinementConfig(max_steps=3, goal=goal),
        )
    )
    told = job.result["refinement"]
    assert (told["goal_met"], told["stopped"], told["metric"]) == (True, "goal_met", "agreement")
    assert told["refined_percent"] >= told["target_percent"] == 98
    assert job.result["top1_percent"]["converted"] < 90
    assert job.result["top1_percent"]["refined"] > 98
    report = json.loads(file_of(job, "report.json").read_text())
    assert report["refinement"]["is_calibrated"]
    assert all(one["calibrated"] for one in report["plan"]["runs"])
    loaded = momentum_core.load(file_of(job, "model.safetensors"))
    again = evaluate(loaded, DATASET.x_test, DATASET.y_test, PREPROCESSING)
    assert again.top1_percent == job.result["top1_percent"]["refined"]


def test_a_goal_that_is_missed_is_no_failure(run):
    goal = RefinementGoal(metric="agreement", tolerable_loss=0)
    config = replace(DIGITS.refinement, goal=goal, max_steps=1, learning_rate=1e-6)
    conversion = ConversionConfig(gamma=0.9, scheme="paper")
    job = run(replace(DIGITS, conversion=conversion, refinement=config))
    assert (job.state, job.result["refinement"]["goal_met"]) == (JobState.SUCCEEDED, False)


def test_a_network_is_fine_tuned_and_compared_with_its_original(run, store, file_of):
    finetuning = FinetuningConfig(max_steps=20, batch_size=32, learning_rate=0.02, calibrate=False)
    job = run(replace(DIGITS, task="finetune", finetuning=finetuning))
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    report = json.loads(file_of(job, "report.json").read_text())
    told = report["finetuning"]
    assert set(job.result["top1_percent"]) == {"original", "refined"}
    assert job.result["top1_percent"]["refined"] > 90
    assert told["original"]["num_steps"] == told["momentum"]["num_steps"] == 20
    assert report["memory"]["ratios"]["peak_bytes"] < 0.6
    batches = told["largest_batch"]
    assert batches["original"] == 32, "the budget is what this batch takes"
    assert batches["momentum"] >= 40
    assert job.result["largest_batch"] == batches
    loaded = momentum_core.load(file_of(job, "model.safetensors"))
    again = evaluate(loaded, DATASET.x_test, DATASET.y_test, PREPROCESSING)
    assert again.top1_percent == job.result["top1_percent"]["refined"]
    history = json.loads(file_of(job, "history.json").read_text())
    assert {name: one["series"][-1]["step"] for name, one in history.items()} == {
        "original": 20,
        "momentum": 20,
    }
    stages = [event.data["stage"] for event in store.events_of(job.id) if event.kind == "stage"]
    assert stages[3:] == ["refining", "evaluating", "measuring", "packaging"]


@pytest.mark.parametrize(
    ("data", "num_images"),
    [(DataSource(labelled=False), len(DATASET.x_test)), (DataSource(synthetic=64), 32)],
)
def test_without_labels_the_originals_answers_are_the_measure(run, file_of, data, num_images):
    conversion = ConversionConfig(gamma=0.9, scheme="paper")
    config = replace(DIGITS.refinement, goal=RefinementGoal(tolerable_loss=0), max_steps=4)
    job = run(replace(DIGITS, data=data, conversion=conversion, refinement=config))
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    is_synthetic = data.synthetic is not None
    result = job.result
    assert (result["synthetic"], result["num_test_images"]) == (is_synthetic, num_images)
    assert result["top1_percent"] is None
    assert result["agreement_percent"]["original"] == 100
    assert result["agreement_percent"]["refined"] >= result["agreement_percent"]["converted"]
    assert result["refinement"]["metric"] == "agreement"
    report = json.loads(file_of(job, "report.json").read_text())
    assert report["accuracy"]["synthetic"] == report["refinement"]["synthetic"] == is_synthetic
    assert report["refinement"]["recipe"]["label_weight"] == 0
    with zipfile.ZipFile(file_of(job, "bundle.zip")) as bundle:
        [card] = [name for name in bundle.namelist() if name.endswith("README.md")]
        told = bundle.read(card).decode()
    kind = "made-up" if is_synthetic else "test"
    assert f"agreement with the original of {num_images} {kind} images, refined" in told


def test_every_run_gets_a_gamma_of_its_own(run, file_of):
    conversion = ConversionConfig(gamma="auto", tolerance=0.1)
    job = run(replace(DIGITS, conversion=conversion, refinement=RefinementConfig(max_steps=1)))
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    report = json.loads(file_of(job, "report.json").read_text())
    chosen = [
        f"{one['gamma']['numerator']}/{one['gamma']['denominator']}"
        for one in report["plan"]["runs"]
    ]
    assert chosen == report["refinement"]["calibration"]["trials"][-1]["gammas"]
    assert job.result["top1_percent"]["refined"] > 98


def test_a_zoo_entry_that_is_not_at_hand_fails_with_the_remedy(run, store):
    job = run(replace(DIGITS, source=Source(zoo="resnet18")))
    assert (job.state, job.error.code) == (JobState.FAILED, "zoo_unavailable")
    assert "resnet18-f37072fd.pth" in job.error.message
    assert store.artifacts_of(job.id) == []


def test_a_lost_upload_fails_with_its_code(run):
    upload = Upload(
        id=new_id(),
        tenant="default",
        kind="checkpoint",
        blob_sha256="0" * 64,
        num_bytes=1,
        facts={},
    )
    job = run(ConvertRequest(), checkpoint=upload)
    assert (job.state, job.error.code) == (JobState.FAILED, "stored_file_damaged")


def test_a_bug_fails_the_job_and_tells_only_its_kind(run, monkeypatch, caplog):
    def broken(*_, **__):
        raise KeyError("a secret path")

    monkeypatch.setattr(conversion_job, "plan_architecture", broken)
    job = run(DIGITS)
    assert (job.state, job.error.code) == (JobState.FAILED, "internal_error")
    assert "secret" not in job.error.message
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        # What torch raises on a CPU; asking for too much for real would endanger the machine.
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_a_too_large_batch_is_called_out_of_memory(run, monkeypatch, error):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(conversion_job, "measure_step", exhausted)
    job = run(DIGITS)
    assert job.error.code == "out_of_memory"
    assert "measurement.batch_size" in job.error.message


def test_a_job_taken_away_publishes_nothing_and_goes_on_with_the_same_bits(
    run, services, store, claims, monkeypatch, file_of
):
    expected = run(DIGITS)
    job = store.submit(DIGITS, tenant="default")
    steps = []

    def advance(active, share, **figures):
        steps.append(figures.get("step"))
        if figures.get("step") == 3:
            claims.hand_back(services.worker)
            active._stop = ClaimLostError
        return original_advance(active, share, **figures)

    original_advance = ActiveJob.advance
    monkeypatch.setattr(ActiveJob, "advance", advance)
    run_job(job.id, services)
    assert steps[-1] == 3
    found = store.get(job.id, tenant="default")
    assert (found.state, found.attempt) == (JobState.QUEUED, 0)
    assert store.artifacts_of(job.id) == []
    assert services.workplace.files.unfinished_jobs() == [job.id]

    steps.clear()
    run_job(job.id, services)
    assert [step for step in steps if step is not None] == list(range(4, 13))
    assert store.get(job.id, tenant="default").state == JobState.SUCCEEDED
    weights = [file_of(one, "model.safetensors") for one in (expected, job)]
    assert weights[0] == weights[1], "named by their SHA-256"
    assert services.workplace.files.unfinished_jobs() == []


@pytest.mark.parametrize("error", [JobCancelledError, DataError("no"), KeyError("bug")])
def test_a_job_that_has_ended_leaves_no_state_to_go_on_from(services, store, monkeypatch, error):
    job = store.submit(DIGITS, tenant="default")

    def advance(active, share, **figures):
        if figures.get("step") == 3:
            raise error

    monkeypatch.setattr(ActiveJob, "advance", advance)
    run_job(job.id, services)
    assert store.get(job.id, tenant="default").state.is_final
    assert services.workplace.files.unfinished_jobs() == []


def test_a_message_too_many_changes_nothing(run, services, store):
    job = run(DIGITS)
    run_job(job.id, services)
    run_job("0" * 32, services)
    assert store.get(job.id, tenant="default") == job


def test_nothing_temporary_is_left(run, settings):
    run(DIGITS)
    run(replace(DIGITS, source=Source(zoo="resnet18")))
    assert list((settings.data_folder / "tmp").iterdir()) == []


def test_another_gamma_and_scheme_are_used_and_said(run, file_of):
    job = run(replace(DIGITS, conversion=ConversionConfig(gamma=0.1, scheme="paper")))
    report = json.loads(file_of(job, "report.json").read_text())
    gamma = report["plan"]["runs"][0]["gamma"]
    assert gamma["numerator"] / gamma["denominator"] == pytest.approx(0.1, abs=0.005)
    assert report["accuracy"]["converted"]["top1_percent"] > 98


def test_a_batch_that_cannot_be_trained_on_is_the_users_to_mend(run, zoo_of_resnet18):
    request = replace(
        zoo_of_resnet18, measurement=MeasurementConfig(batch_size=1, image_size=8, repeats=1)
    )
    job = run(request)
    assert (job.state, job.error.code) == (JobState.FAILED, "measurement_failed")
    assert "try another batch_size or image_size" in job.error.message


@pytest.fixture
def zoo_of_resnet18(settings, monkeypatch):
    """A zoo entry `resnet18` with random weights, put into the folder by hand."""
    from torchvision import models

    from worker.contract import zoo

    settings.zoo_folder.mkdir(parents=True)
    made = settings.zoo_folder / "made"
    torch.save(models.resnet18().state_dict(), made)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    entry = replace(
        find_zoo_entry("resnet18"), sha256_prefix=digest[:8], file_name=f"r-{digest[:8]}.pth"
    )
    made.rename(settings.zoo_folder / entry.file_name)
    monkeypatch.setattr(zoo, "ZOO", (entry,))
    return ConvertRequest(source=Source(zoo="resnet18"))


def test_a_full_disk_is_not_the_files_fault(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packaging, "save_weights", full)
    job = run(DIGITS)
    assert (job.state, job.error.code) == (JobState.FAILED, "storage_full")


def test_a_record_that_fails_to_answer_leaves_the_job_to_its_lease(
    services, store, claims, monkeypatch
):
    job = store.submit(DIGITS, tenant="default")

    def away(*_, **__):
        raise OperationalError("UPDATE", {}, Exception("away"))

    monkeypatch.setattr(JobClaims, "succeed", away)
    run_job(job.id, services)
    found = store.get(job.id, tenant="default")
    assert (found.state, found.error) == (JobState.RUNNING, None)


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


def test_a_network_whose_output_is_not_finite_is_refused(run, monkeypatch):
    look = refining.evaluate

    def infinite(*arguments, **options):
        found = look(*arguments, **options)
        found.logits[3, 2] = float("inf")
        return found

    monkeypatch.setattr(refining, "evaluate", infinite)
    assert run(DIGITS).error.code == "non_finite_output"
