"""Rows of the matrix on PostgreSQL and Redis; a command runs all of them there (tests/faults)."""

from __future__ import annotations

import pytest

from tests.conftest import postgres_schema, slow
from tests.faults import test_api_and_relay as api
from tests.faults import test_broker as brokers
from tests.faults import test_worker as workers
from tests.faults.broker import redis_server
from tests.faults.stack import stack

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def service(postgres, tmp_path_factory):
    with (
        postgres_schema() as url,
        stack(
            tmp_path_factory.mktemp("stack"),
            own_broker=True,
            broker_server=redis_server(),
            MOMENTUM_DATABASE_URL=url,
        ) as service,
    ):
        yield service


@pytest.fixture
def broker(service):
    return service.broker


@pytest.mark.fault(2)
def test_the_api_is_killed_between_record_and_answer(service, undisturbed):
    api.test_the_api_is_killed_between_record_and_answer(service, undisturbed)


@pytest.mark.slow
@pytest.mark.fault(4)
def test_the_relay_is_killed_after_a_message(service, undisturbed):
    api.test_the_relay_is_killed_around_a_message(service, undisturbed, "relay.sent")


@pytest.mark.fault(5)
def test_a_broker_that_lost_everything_loses_no_job(service, broker, undisturbed):
    brokers.test_a_broker_that_lost_everything_loses_no_job(service, broker, undisturbed)


@pytest.mark.fault(7)
def test_a_running_job_does_without_the_broker(service, broker):
    brokers.test_a_running_job_does_without_the_broker(service, broker)


@pytest.mark.slow
@pytest.mark.fault(10)
def test_ten_messages_are_one_execution(service, broker, undisturbed):
    brokers.test_ten_messages_are_one_execution(service, broker, undisturbed)


@pytest.mark.fault(11)
@pytest.mark.parametrize("place", [slow("claim.uncommitted"), "publish.uncommitted"])
def test_a_child_is_killed_in_a_transaction(service, undisturbed, place):
    workers.test_a_child_killed_in_a_transaction_costs_no_bit(service, undisturbed, place)


@pytest.mark.slow
@pytest.mark.fault(12)
def test_another_worker_goes_on_where_a_killed_one_was(service, undisturbed):
    workers.test_another_worker_goes_on_where_a_killed_one_was(service, undisturbed)


@pytest.mark.fault(13)
def test_a_worker_that_slept_through_its_lease_writes_nothing(service, undisturbed):
    place = "publish.unrecorded"
    workers.test_a_worker_that_slept_through_its_lease_writes_nothing(service, undisturbed, place)


@pytest.mark.fault(14)
def test_a_worker_told_to_stop_hands_its_job_back_uncounted(service):
    workers.test_a_worker_told_to_stop_hands_its_job_back_uncounted(service)


@pytest.mark.slow
@pytest.mark.fault(27)
def test_the_record_is_locked_for_longer_than_anyone_waits(service):
    api.test_the_record_is_locked_for_longer_than_anyone_waits(service)
