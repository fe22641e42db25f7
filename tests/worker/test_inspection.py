"""What an inspection says is what a job does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from momentum_core.config import (
    ConversionConfig,
    FinetuningConfig,
    MeasurementConfig,
    RefinementConfig,
)
from momentum_core.errors import MomentumError
from worker.contract.inspection import Question, StepSpeed
from worker.contract.job import Stage
from worker.contract.request import ConvertRequest, DataSource, Source
from worker.inspection import answer_question
from worker.time_estimate import MAX_PROBED_PARAMETERS, estimate_time

DIGITS = ConvertRequest(
    source=Source(zoo="digits_resnet26"),
    conversion=ConversionConfig(gamma=0.25),
    measurement=MeasurementConfig(batch_size=4, repeats=1),
    refinement=RefinementConfig(max_steps=2, batch_size=16, calibrate=False),
)


def question(request: ConvertRequest, architecture: str = "digits_resnet26", **values) -> Question:
    return Question(architecture=architecture, num_classes=10, request=request, **values)


def test_plan_parts_and_memory_are_those_of_the_jobs_report(run, file_of):
    report = json.loads(file_of(run(DIGITS), "report.json").read_text())
    answer = answer_question(question(DIGITS))
    assert answer["plan"] == report["plan"]
    names = ("name", "modules", "converted", "gamma", "strategy", "reason")
    assert [{name: one[name] for name in names} for one in answer["blocks"]] == [
        {name: one[name] for name in names} for one in report["blocks"]
    ]
    assert answer["memory"]["budgets"] == report["prediction"]["budgets"]
    assert answer["num_parameters"] == report["source"]["num_parameters"]
    assert (answer["num_train"], answer["num_test"]) == (1297, 500)
    assert any("would be converted" in sentence for sentence in answer["summary"])
    assert any("largest batch" in sentence for sentence in answer["summary"])


def test_made_up_images_are_counted():
    request = replace(DIGITS, data=DataSource(synthetic=40))
    answer = answer_question(question(request))
    assert (answer["num_train"], answer["num_test"]) == (40, 20)


def test_no_data_no_refinement():
    request = replace(DIGITS, source=Source(upload="0" * 32))
    answer = answer_question(question(request))
    assert (answer["num_train"], answer["num_test"]) == (None, None)
    assert answer["time"]["seconds"].keys() == {"planning", "measuring"}


def test_what_a_job_would_fail_with_is_said():
    with pytest.raises(MomentumError, match="no_such_network"):
        answer_question(question(DIGITS, "no_such_network"))


def test_time_is_images_times_measured_steps():
    """By hand: 1 s a step of the original for each image, 3 s of the momentum network."""
    asked = replace(
        DIGITS,
        measurement=MeasurementConfig(batch_size=4, repeats=1, rivals=False, predict=False),
        refinement=RefinementConfig(
            max_steps=10, batch_size=16, calibrate=False, evaluation_interval=5, held_back=0.1
        ),
    )
    known = StepSpeed(original=1.0, momentum=3.0, device="x", num_jobs=2)
    found = estimate_time(question(asked, num_train=100, num_test=30, speed=known), 0, planning=0.5)
    assert found.seconds[Stage.PLANNING] == 0.5
    # A warm-up and a repetition of 4 images, both networks.
    assert found.seconds[Stage.MEASURING] == pytest.approx(2 * 4 * (1 + 3))
    # Steps with the original's answers; 2 evaluations and 3 at the start on 10 images.
    refining = 10 * 16 * (3 + 1 / 3) + (2 + 3) * 10 * 3 / 3
    assert found.seconds[Stage.REFINING] == pytest.approx(refining)
    # Original, converted, refined.
    assert found.seconds[Stage.EVALUATING] == pytest.approx(30 * (1 + 3 + 3) / 3)
    assert "2 finished jobs" in found.basis
    # Where jobs have refined, what their larger batches took counts.
    known = replace(known, refining=0.25)
    found = estimate_time(question(asked, num_train=100, num_test=30, speed=known), 0, planning=0.5)
    assert found.seconds[Stage.REFINING] == pytest.approx(10 * 16 * 0.25 + (2 + 3) * 10 * 3 / 3)
    assert found.to_json()["total_seconds"] == pytest.approx(sum(found.seconds.values()))


def test_a_network_that_is_too_large_is_not_stepped():
    asked = question(DIGITS, "torchvision:regnet_y_128gf", num_train=9, num_test=3)
    assert estimate_time(asked, MAX_PROBED_PARAMETERS + 1, planning=0) is None
    known = StepSpeed(original=1.0, momentum=2.0, device="x", num_jobs=1)
    assert estimate_time(replace(asked, speed=known), MAX_PROBED_PARAMETERS + 1, planning=0)


def test_large_images_are_not_stepped_but_reckoned():
    """Of 2,048 x 2,048, a batch of any network here would not fit the worker's memory."""
    one, larger = (
        estimate_time(
            question(replace(DIGITS, measurement=replace(DIGITS.measurement, image_size=side))),
            1000,
            planning=0,
        )
        for side in (None, 2048)
    )
    ratio = larger.seconds[Stage.MEASURING] / one.seconds[Stage.MEASURING]
    assert 256**2 / 8 < ratio < 256**2 * 8


def test_fine_tuning_trains_both_networks():
    asked = replace(DIGITS, task="finetune", finetuning=FinetuningConfig(max_steps=7, batch_size=8))
    known = StepSpeed(original=1.0, momentum=2.0, device="x", num_jobs=1)
    found = estimate_time(question(asked, num_train=100, num_test=3, speed=known), 0, planning=0)
    assert found.seconds[Stage.REFINING] == pytest.approx(7 * 8 * 3)
