"""A refinement of 60 steps in a process of its own, killed with -9 at 20 random points."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.findings import Claim
from tests.momentum_core.refinement.test_resumption import NUM_STEPS, killed_at, undisturbed

NUM_KILLS = 20


def run() -> Iterator[Claim]:
    """Kill 20 processes, each once, and compare the weights that each ends with."""
    with tempfile.TemporaryDirectory() as folder:
        expected = undisturbed(Path(folder) / "whole")
        others = 0
        for number, step in enumerate(random.Random(1).sample(range(1, NUM_STEPS), NUM_KILLS)):
            _, digest = killed_at(Path(folder) / str(number), [step])
            others += digest != expected
            sys.stdout.write(f"killed after step {step}: {digest}\n")
            sys.stdout.flush()
    yield Claim(f"weights of other bits after {NUM_KILLS} kills, each resumed", others, 0)
