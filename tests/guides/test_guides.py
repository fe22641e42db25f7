"""The guides' examples run as they stand there: quickstart, library, README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import MOMENTUM, serving

pytestmark = pytest.mark.timeout(900)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```", (ROOT / document).read_text(), re.M | re.S)


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


def test_the_library_guide_runs_from_its_beginning_to_its_end(tmp_path):
    examples = blocks("docs/library.md", "python")
    assert len(examples) == 6
    told = run([sys.executable, "-c", "\n".join(examples)], tmp_path)
    assert "layer1.0" in told
    assert (tmp_path / "converted" / "config.json").exists()


def test_the_readmes_examples_run(tmp_path):
    client, loading, converting = blocks("README.md", "python")
    with serving(tmp_path / "data", OMP_NUM_THREADS="1") as service:
        program = client.replace("http://127.0.0.1:8000", str(service.client.base_url))
        assert "'refined'" in run([sys.executable, "-c", program], tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    run([sys.executable, "-c", loading], tmp_path)
    assert "layer1" in run([sys.executable, "-c", converting], tmp_path)
