"""The quickstart's commands and its program run as they stand there."""

from __future__ import annotations

import os
import sys

import pytest

from tests.end_to_end.conftest import MOMENTUM, serving
from tests.guides.examples import blocks, run

pytestmark = pytest.mark.timeout(900)


def test_the_quickstart_leads_to_a_report_and_a_training_step(tmp_path):
    making, inspecting, converting = blocks("docs/quickstart.md", "sh")
    [training] = blocks("docs/quickstart.md", "python")
    with serving(tmp_path / "data") as service:
        base = {
            "MOMENTUM_URL": str(service.client.base_url),
            "PATH": f"{MOMENTUM.parent}:{os.environ['PATH']}",
        }
        shell = ["/bin/bash", "-euo", "pipefail", "-c"]
        run([*shell, making], tmp_path, **base)
        told = run([*shell, inspecting], tmp_path, **base)
        assert "residual blocks in" in told
        run([*shell, converting], tmp_path, **base)
    [report] = tmp_path.glob("*/report.html")
    assert "Memory report" in report.read_text()
    weights = report.with_name("model.safetensors")
    assert "loss" in run([sys.executable, "-c", training, str(weights)], tmp_path)
