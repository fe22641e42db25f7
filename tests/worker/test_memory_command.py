"""`momentum report` and `momentum predict`, as a person starts them."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest
import torch
from safetensors.torch import save_file

from momentum_core.architectures import build
from momentum_core.comparison import predict_memory
from momentum_core.conversion import convert, plan_architecture
from tests.conftest import ROOT

# Each starts a Python that imports torch.
pytestmark = pytest.mark.timeout(1200)

COMMAND = [sys.executable, "-c", "from api.cli import app; app()"]


def momentum(*arguments, folder):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sent") / "mine.safetensors"
    save_file(build("cifar_resnet20", num_classes=7).state_dict(), path)
    return path


def test_a_local_checkpoint_is_measured_and_reported(checkpoint, tmp_path):
    (tmp_path / "worker").mkdir()  # a folder of the user's, with a name of ours
    done = momentum(
        "report", checkpoint, "--repeats", 1, "--batch-size", 4, "--no-rivals", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["source"]["architecture"] == "cifar_resnet20"
    assert report["source"]["num_classes"] == 7
    assert report["memory"]["batch_size"] == 4
    assert (report["job"], report["accuracy"]) == (None, None)
    for sentence in report["summary"]:
        assert sentence in done.stdout
    assert "<!DOCTYPE html>" in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "report.csv").read_text().startswith("section,method,")


def test_predict_prints_what_the_library_predicts(tmp_path):
    done = momentum("predict", "cifar_resnet20", "--gpu", "8GiB", "--gpu", "80", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    original = build("cifar_resnet20", num_classes=1000)
    momentum_network = convert(original, plan=plan_architecture("cifar_resnet20", num_classes=1000))
    expected = predict_memory(
        original,
        momentum_network,
        torch.empty(2, 3, 32, 32, device="meta"),
        budgets_gib=(8, 80),
        depth_factors=(),
    )
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    for at, name in enumerate(("8 GiB", "80 GiB")):
        cells = [int(cell.replace(",", "")) for cell in lines[name].split()[2:]]
        assert cells == [one.largest_batches[at] for one in expected.methods.values()]
    assert "context (assumed)" in done.stdout
    assert "512 MiB" in lines["context (assumed)"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "nonsense"), "'nonsense' is no file, no zoo entry and no architecture"),
        (("predict", "resnet18", "--gpu", "banana"), "write 24GiB, say"),
        (("predict", "resnet18", "--gpu", "0"), "write 24GiB, say"),
        (("report", "resnet18", "--optimizer", "lion"), "optimizer must be one of sgd"),
        (("predict", "resnet18", "--dtype", "int4"), "dtype must be one of float32"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, words, tmp_path):
    done = momentum(*arguments, folder=tmp_path)
    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    done = momentum("report", "evil.pt", folder=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.startswith("error: ")
