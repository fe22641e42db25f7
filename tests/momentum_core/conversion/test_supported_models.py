"""The published table of models is what planning them finds now."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT, slow
from tests.supported_models import (
    INTRODUCTION,
    TIMM,
    Outcome,
    timm_outcome,
    torchvision_names,
    torchvision_outcome,
)

DOCUMENT = (ROOT / "docs" / "supported-models.md").read_text()
NOT_RESIDUAL = ("alexnet", "densenet", "googlenet", "inception", "shufflenet", "squeezenet", "vgg")


def row(outcome: Outcome) -> str:
    counts = f"{outcome.num_runs} | {outcome.num_blocks}" if outcome.num_runs else "- | -"
    return f"| `{outcome.name}` | {counts} | {outcome.reason} |"


@pytest.mark.parametrize("name", torchvision_names())
def test_every_torchvision_classifier_is_converted_or_refused_as_the_table_says(name):
    outcome = torchvision_outcome(name)
    assert bool(outcome.num_runs) == (not name.startswith(NOT_RESIDUAL))
    assert bool(outcome.reason) == (outcome.num_runs == 0)
    assert row(outcome) in DOCUMENT


# The slowest one takes as long as twenty others.
@pytest.mark.parametrize("name", [slow(one) if one == "sequencer2d_s" else one for one in TIMM])
def test_every_timm_model_of_the_table_is_as_it_says(name):
    assert row(timm_outcome(name)) in DOCUMENT


def test_the_document_is_the_commands():
    assert DOCUMENT.startswith(f"{INTRODUCTION}## torchvision, classification\n")


def test_at_least_forty_timm_architectures_of_twenty_families_convert():
    rows = DOCUMENT.partition("## timm")[2].splitlines()
    converted = [line for line in rows if line.startswith("| `") and "| - |" not in line]
    families = {line[3:].partition("_")[0].partition("`")[0] for line in converted}
    assert len(converted) >= 40
    assert len(families) >= 20
