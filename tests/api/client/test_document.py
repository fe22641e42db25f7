"""The examples of docs/client.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

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
