"""A worker dies at every place; then the short form of chaos, of a seed that stays and another."""

from __future__ import annotations

import random
import sys

import pytest

from tests.faults import chaos
from tests.faults.stack import SMALL, Stack

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with chaos.patient_stack(tmp_path_factory.mktemp("stack")) as service:
        yield service


@pytest.mark.slow
@pytest.mark.fault(11)
def test_children_killed_at_every_place_cost_no_bit(service: Stack, undisturbed):
    for place in chaos.PLACES:
        service.arm(place, "kill")
    locations = [service.submit(SMALL) for _ in range(4)]
    for location in locations:
        service.end_of(location)
    for place in chaos.PLACES:
        assert service.hit_file(place).exists(), place
    service.check(dict.fromkeys(locations, undisturbed))


@pytest.mark.parametrize(("num_jobs", "num_faults", "is_random"), [(28, 14, False), (12, 6, True)])
def test_chaos_loses_nothing_and_does_nothing_twice(
    service: Stack, num_jobs, num_faults, is_random
):
    seed = random.SystemRandom().randrange(10**6) if is_random else 7
    sys.stdout.write(f"seed {seed}\n")
    chaos.run(service, num_jobs=num_jobs, num_faults=num_faults, seed=seed)
