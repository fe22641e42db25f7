"""Every classification network of torchvision is read as torch reads it, bit for bit.

`python -m tests.corpus.honest` reads all of them in all forms; here are those up to 400 MiB in one
form each, and those up to 100 MiB in all forms.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.corpus.honest import FORMS

NUM_PROCESSES = 2
# A machine that does other things besides must not fail it.
pytestmark = pytest.mark.timeout(1800)


def test_state_dicts_are_read_bit_for_bit():
    command = [sys.executable, "-m", "tests.corpus.honest", "--all-forms", "100", "--once", "400"]
    running = [
        subprocess.Popen(
            [*command, "--share", str(number), str(NUM_PROCESSES)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(NUM_PROCESSES)
    ]
    lines = [
        line.split(maxsplit=3) for each in running for line in each.communicate()[0].splitlines()
    ]
    assert [each.returncode for each in running] == [0, 0]
    assert all(result == "equal" for *_, result in lines)
    read = {(name, form) for name, form, *_ in lines}
    assert len({name for name, _ in read}) == 63
    assert len(read) == 35 * len(FORMS) + 28
    assert sum(int(num_bytes) for _, _, num_bytes, _ in lines) > 14e9
