"""Options refuse values they cannot have, and say what to do."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict

import pytest

from momentum_core.config import (
    CalibrationConfig,
    ConversionConfig,
    MeasurementConfig,
    Preprocessing,
    RefinementConfig,
    RefinementGoal,
)
from momentum_core.errors import ConfigError


@pytest.mark.parametrize("gamma", [0, 1, 1.5, -0.1, "x", None, True, math.nan, math.inf])
def test_gamma_outside_the_open_interval_is_refused_with_a_remedy(gamma: object) -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 1, both excluded.*try 0\.5"):
        ConversionConfig(gamma=gamma)  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [1 / 16, 0.5, 0.97, 1 / 4096])
def test_gamma_inside_the_open_interval_is_kept(gamma: float) -> None:
    assert ConversionConfig(gamma=gamma).gamma == gamma


def test_an_unknown_scheme_is_refused_and_named() -> None:
    with pytest.raises(ConfigError, match="'fast'"):
        ConversionConfig(scheme="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (ConversionConfig, {"gamma": "Auto"}, "gamma"),
        (ConversionConfig, {"tolerance": -0.1}, "tolerance"),
        (CalibrationConfig, {"form": "matrix"}, "form"),
        (CalibrationConfig, {"max_steps": -1}, "max_steps"),
        (CalibrationConfig, {"learning_rate": 2}, "learning_rate"),
        (CalibrationConfig, {"held_back": 0}, "held_back"),
        (MeasurementConfig, {"batch_size": 0}, "batch_size"),
        (MeasurementConfig, {"image_size": 4}, "image_size"),
        (MeasurementConfig, {"repeats": 2.5}, "repeats"),
        (RefinementConfig, {"max_steps": -1}, "max_steps"),
        (RefinementConfig, {"max_steps": 0}, "set refinement to null"),
        (RefinementConfig, {"max_minutes": 0}, "max_minutes"),
        (RefinementConfig, {"max_minutes": -1}, "max_minutes"),
        (RefinementConfig, {"augmentation": "flip"}, "augmentation"),
        (RefinementGoal, {"tolerable_loss": -1}, "tolerable_loss"),
        (RefinementGoal, {"metric": "top5"}, "metric"),
        (RefinementGoal, {"criterion": "both"}, "criterion"),
        (RefinementConfig, {"batch_size": True}, "batch_size"),
        (RefinementConfig, {"learning_rate": math.nan}, "learning_rate"),
        (RefinementConfig, {"label_weight": 1.1}, "label_weight"),
        (Preprocessing, {"mean": (0.5,), "std": (0.5, 0.5)}, "mean and std"),
        (Preprocessing, {"mean": (127.0,), "std": (0.5,)}, "mean"),
        (Preprocessing, {"mean": (0.5,), "std": (0.0,)}, "std"),
    ],
)
def test_a_bad_option_is_named(kind: type, options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        kind(**options)


def test_options_cannot_be_changed_after_they_were_checked() -> None:
    config = ConversionConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gamma = 1.5  # type: ignore[misc]


def test_a_goal_is_meant_in_points_or_in_percent_of_the_originals_figure():
    assert RefinementGoal(tolerable_loss=2).target_percent(80) == 78
    relative = RefinementGoal(criterion="relative", tolerable_loss=2)
    assert relative.target_percent(80) == pytest.approx(78.4)


def test_refinement_options_come_back_from_json():
    config = RefinementConfig(goal=RefinementGoal(metric="top1"), learning_rate=0.1, max_minutes=5)
    for one in (config, RefinementConfig(goal=None), RefinementConfig()):
        assert RefinementConfig.from_json(json.loads(json.dumps(asdict(one)))) == one
    assert RefinementConfig.from_json({"max_steps": 3}) == RefinementConfig(max_steps=3)
