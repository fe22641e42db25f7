"""The short form of chaos: 40 jobs, 20 faults, of a seed that stays and one that does not."""

from __future__ import annotations

import random
import sys

import pytest

from tests.faults import chaos

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(("num_jobs", "num_faults", "is_random"), [(28, 14, False), (12, 8, True)])
def test_chaos_loses_nothing_and_does_nothing_twice(tmp_path, num_jobs, num_faults, is_random):
    seed = random.SystemRandom().randrange(10**6) if is_random else 7
    sys.stdout.write(f"seed {seed}\n")
    chaos.run(num_jobs=num_jobs, num_faults=num_faults, seed=seed, folder=tmp_path)
