"""Webhooks in the record, on both databases."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from worker.contract.database import database_now
from worker.contract.job import JobError
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import webhook_deliveries
from worker.contract.webhook_store import (
    MAX_WEBHOOKS,
    RETRY_SECONDS,
    DeliveryState,
    TooManyWebhooksError,
    WebhookDisabledError,
    WebhookStore,
)

URL = "https://example.org/hook"
REQUEST = ConvertRequest(source=Source(zoo="resnet50"))


@pytest.fixture
def hooks(engine) -> WebhookStore:
    return WebhookStore(engine)


@pytest.fixture
def make(hooks):
    return lambda tenant="a", kinds=("failed", "cancelled"): hooks.create(
        tenant=tenant, url=URL, kinds=kinds
    )[0]


def wait_no_longer(engine) -> None:
    """Let every message be due."""
    with engine.begin() as connection:
        connection.execute(update(webhook_deliveries).values(next_at=database_now() - 1))


def test_each_webhook_of_the_tenant_hears_what_it_asks_for(hooks, make, store, claims):
    both, failed, other = make(), make(kinds=("failed",)), make(tenant="b")
    job = store.submit(REQUEST, tenant="a")
    claim = claims.claim(job.id, worker="w")
    claims.fail(claim, JobError(code="x", message="y"))
    gone = store.submit(REQUEST, tenant="a")
    store.cancel(gone.id, tenant="a")
    told = {one.id: [each.kind for each in hooks.deliveries_of(one.id)] for one in (both, failed)}
    assert told == {both.id: ["cancelled", "failed"], failed.id: ["failed"]}
    assert hooks.deliveries_of(other.id) == []
    [message] = hooks.deliveries_of(failed.id)
    assert (message.job_id, message.state) == (job.id, DeliveryState.PENDING)
    assert message.event_number == store.get(job.id, tenant="a").revision


def test_a_message_is_taken_once(engine, hooks, make, store):
    make()
    for _ in range(5):
        store.cancel(store.submit(REQUEST, tenant="a").id, tenant="a")
    taken = []
    threads = [threading.Thread(target=lambda: taken.extend(hooks.take_due())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.delivery.id for one in taken) == [1, 2, 3, 4, 5]
    assert hooks.take_due() == []
    # Unless whoever took it fell silent.
    wait_no_longer(engine)
    assert [one.delivery.attempts for one in hooks.take_due()] == [2] * 5


def test_what_fails_is_tried_again_later_and_not_for_ever(engine, hooks, make, store):
    webhook = make()
    store.cancel(store.submit(REQUEST, tenant="a").id, tenant="a")
    waits = []
    for _ in range(len(RETRY_SECONDS) + 1):
        [due] = hooks.take_due()
        hooks.record(due.delivery, status=500, problem="the receiver answered 500")
        assert hooks.take_due() == []
        [found] = hooks.deliveries_of(webhook.id)
        waits.append(found.next_at and found.next_at - found.created_at)
        if found.state == DeliveryState.PENDING:
            wait_no_longer(engine)
    assert found.state == DeliveryState.FAILED
    assert (found.attempts, found.status) == (len(RETRY_SECONDS) + 1, 500)
    assert waits[:-1] == pytest.approx(RETRY_SECONDS, abs=20)
    assert waits[-1] is None
    again = hooks.send_again(found.id, webhook_id=webhook.id)
    assert (again.state, again.attempts) == (DeliveryState.PENDING, 0)
    [due] = hooks.take_due()
    hooks.record(due.delivery, status=204, problem=None)
    [found] = hooks.deliveries_of(webhook.id)
    assert (found.state, found.attempts, found.next_at) == (DeliveryState.DELIVERED, 1, None)


def test_a_receiver_that_is_gone_hears_nothing_more(hooks, make, store):
    webhook = make()
    store.cancel(store.submit(REQUEST, tenant="a").id, tenant="a")
    hooks.disable(webhook.id)
    assert hooks.take_due() == []
    store.cancel(store.submit(REQUEST, tenant="a").id, tenant="a")
    [only] = hooks.deliveries_of(webhook.id)
    assert only.state == DeliveryState.FAILED
    assert hooks.get(webhook.id, tenant="a").disabled_at is not None


def test_webhooks_are_a_tenants_own_and_go_with_their_messages(hooks, make, store):
    webhook = make()
    job = store.submit(REQUEST, tenant="a")
    store.cancel(job.id, tenant="a")
    for call in (hooks.get, hooks.delete):
        with pytest.raises(LookupError):
            call(webhook.id, tenant="b")
    assert hooks.all(tenant="b") == []
    with pytest.raises(LookupError):
        hooks.send_again(1, webhook_id="0" * 32)
    store.delete(job.id, tenant="a")
    assert hooks.deliveries_of(webhook.id) == []
    hooks.delete(webhook.id, tenant="a")
    assert hooks.all(tenant="a") == []


def test_there_is_an_end_to_webhooks(hooks, make):
    for _ in range(MAX_WEBHOOKS):
        make()
    with pytest.raises(TooManyWebhooksError):
        make()
    make(tenant="b")


def test_requests_at_once_do_not_pass_the_limit(make, hooks):
    for _ in range(MAX_WEBHOOKS - 3):
        make()
    at_once = threading.Barrier(12)
    refused = []

    def create() -> None:
        at_once.wait()
        try:
            make()
        except TooManyWebhooksError as error:
            refused.append(error)

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hooks.all(tenant="a")) == MAX_WEBHOOKS
    assert len(refused) == 9


def test_a_message_is_not_sent_again_to_who_is_gone(hooks, make, store):
    webhook = make()
    job = store.submit(REQUEST, tenant="a")
    store.cancel(job.id, tenant="a")
    [message] = hooks.deliveries_of(webhook.id)
    hooks.disable(webhook.id)
    with pytest.raises(WebhookDisabledError):
        hooks.send_again(message.id, webhook_id=webhook.id)
    assert hooks.take_due() == []
