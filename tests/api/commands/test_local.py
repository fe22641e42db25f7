"""`momentum convert --local`: the same as through a service, and no service is there."""

from __future__ import annotations

import json

import pytest

from api.commands.exit_codes import ExitCode
from tests.api.commands.conftest import SHORT, run_momentum
from worker.zoo import SHIPPED_FOLDER as ENTRIES

NOWHERE = "http://127.0.0.1:9"


def test_a_checkpoint_and_its_data_are_converted_here(tmp_path):
    command = ("convert", ENTRIES / "digits_resnet26-9a97caaa.safetensors", "--local", *SHORT)
    data = ("--data", ENTRIES / "digits.npz", "--mean", "0.3053", "--std", "0.3758")
    done = run_momentum(
        NOWHERE,
        tmp_path,
        *command,
        *data,
        *("--max-steps", 5, "--output", "out"),
        MOMENTUM_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/none",
        MOMENTUM_BROKER_URL="redis://127.0.0.1:1/0",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == ExitCode.OK, done.stderr + done.stdout
    assert "refining ..." in done.stdout
    assert "top-1 of 500 test images" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["refined"]["top1_percent"] > 98
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert list(tmp_path.glob("momentum-*")) == []  # the folder that it worked in


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("zoo:resnet5",), ExitCode.FAILED, "did you mean resnet50"),
        (("evil.pt",), ExitCode.FAILED, "error: "),
        (("zoo:digits_resnet26", "--set", "refinement.max_step=1"), ExitCode.USAGE, "max_steps"),
        (("zoo:digits_resnet26", "--data", "synthetic:x"), ExitCode.USAGE, "synthetic"),
    ],
)
def test_refusals_are_those_of_the_service(tmp_path, arguments, code, words):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    done = run_momentum(NOWHERE, tmp_path, "convert", "--local", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_registered_data_set_that_is_not_there_is_named(tmp_path):
    """The job is taken all the same: here is no other worker that might have it."""
    command = ("convert", "zoo:digits_resnet26", "--local", "--data", "registered:photos")
    done = run_momentum(NOWHERE, tmp_path, *command)
    assert done.returncode != 0
    assert "this worker has no data set 'photos' (it has none)" in done.stdout + done.stderr


def test_a_device_that_is_not_there_is_named(tmp_path):
    command = ("convert", "zoo:digits_resnet26", "--local")
    done = run_momentum(NOWHERE, tmp_path, *command, MOMENTUM_DEVICE="cuda:7")
    assert done.returncode == ExitCode.FAILED
    assert "MOMENTUM_DEVICE is 'cuda:7'" in done.stderr
