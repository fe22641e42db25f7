"""What a job does with data: refinement, its goal, fine-tuning, gamma of each run."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import momentum_core
from momentum_core.config import (
    ConversionConfig,
    FinetuningConfig,
    RefinementConfig,
    RefinementGoal,
)
from momentum_core.refinement import evaluate
from tests.worker.digits import DATASET, DIGITS, PREPROCESSING
from worker import refining
from worker.contract.job import JobState
from worker.contract.request import DataSource


def test_the_weights_are_the_original_architectures_and_better_than_at_the_start(run, file_of):
    job = run(DIGITS)
    logits = load_file(file_of(job, "evaluation.safetensors"))
    teacher = torch.log_softmax(logits["original"], 1)

    def divergence(name):
        return torch.nn.functional.kl_div(
            torch.log_softmax(logits[name], 1), teacher, reduction="batchmean", log_target=True
        )

    assert divergence("refined") < divergence("converted")


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


def test_another_gamma_and_scheme_are_used_and_said(run, file_of):
    job = run(replace(DIGITS, conversion=ConversionConfig(gamma=0.1, scheme="paper")))
    report = json.loads(file_of(job, "report.json").read_text())
    gamma = report["plan"]["runs"][0]["gamma"]
    assert gamma["numerator"] / gamma["denominator"] == pytest.approx(0.1, abs=0.005)
    assert report["accuracy"]["converted"]["top1_percent"] > 98


def test_a_network_whose_output_is_not_finite_is_refused(run, monkeypatch):
    look = refining.evaluate

    def infinite(*arguments, **options):
        found = look(*arguments, **options)
        found.logits[3, 2] = float("inf")
        return found

    monkeypatch.setattr(refining, "evaluate", infinite)
    assert run(DIGITS).error.code == "non_finite_output"
