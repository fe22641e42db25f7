"""Weights files of earlier schemas: they load, and the models answer as they did."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from momentum_core.bundle import load
from tests.conftest import ROOT

SHIPPED = ROOT / "worker" / "zoo_entries" / "digits_resnet26-9a97caaa.safetensors"
OLD = sorted((ROOT / "tests" / "old_files").glob("weights-schema-*.json"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_old_weights_file_loads_and_answers_as_it_did(path, tmp_path):
    told = json.loads(path.read_text())
    # What was converted only has the original's weights; the rest is in the metadata.
    file = tmp_path / "model.safetensors"
    save_file(load_file(SHIPPED), file, metadata=told["metadata"])
    model = load(file).eval()
    x = torch.arange(2 * 64, dtype=torch.float32).reshape(2, 1, 8, 8) / 64 - 1
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.tensor(told["logits"]), atol=1e-4, rtol=1e-4)


def test_there_are_old_files():
    assert len(OLD) >= 2
