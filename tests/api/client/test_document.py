"""The examples of docs/client.md, and the README's, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.guides.examples import blocks, run

TEXT = (ROOT / "docs" / "client.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.+?)^```", TEXT, re.M | re.S)


# In this order: the second one looks at the job that the first one makes.
@pytest.mark.parametrize(
    ("at", "words"), [(0, "activation memory"), (1, "PosixPath"), (2, "did you mean resnet50")]
)
def test_an_example_runs(url_of_running_service, tmp_path, at, words):
    program = EXAMPLES[at].replace("http://127.0.0.1:8000", url_of_running_service)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_every_example_is_run():
    assert len(EXAMPLES) == 3


def test_the_readmes_program_and_the_one_that_loads_its_file_run(url_of_running_service, tmp_path):
    program, loading, _ = blocks("README.md", "python")
    program = program.replace("http://127.0.0.1:8000", url_of_running_service)
    # What is measured beside is the quickstart's test.
    quick = 'goal="0.5%", measurement={"rivals": False, "predict": False}'
    assert program.count('goal="0.5%"') == 1
    program = program.replace('goal="0.5%"', quick)
    assert "'refined'" in run([sys.executable, "-c", program], tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    run([sys.executable, "-c", loading], tmp_path)
