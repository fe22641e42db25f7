"""The script of docs/cli.md runs as it stands there."""

from __future__ import annotations

import json
import re
import subprocess

from tests.api.commands.conftest import environment
from tests.conftest import ROOT
from tests.end_to_end.conftest import MOMENTUM


def test_the_script_runs(url, tmp_path):
    text = (ROOT / "docs" / "cli.md").read_text()
    [script] = re.findall(r"^    job=.*\n(?:    .*\n)+", text, re.M)
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(url, PATH=f"{MOMENTUM.parent}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last_event, _, job = done.stdout.partition("\n")
    assert json.loads(last_event)["kind"] == "succeeded"
    assert json.loads(job)["result"]["architecture"] == "digits_resnet26"
