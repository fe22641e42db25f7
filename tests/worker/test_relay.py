"""The relay against a real broker: every message arrives, also after the broker lost them all."""

from __future__ import annotations

import base64
import json
import threading
import time

import pytest
import redis
from sqlalchemy import update

from worker.broker import create_celery_app
from worker.contract.collector import Collector
from worker.contract.database import database_now
from worker.contract.file_store import FileStore
from worker.contract.inspection import InspectionStore
from worker.contract.lease_watch import LeaseWatch
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import outbox as messages
from worker.contract.upload_store import UploadStore
from worker.relay import Relay

pytestmark = pytest.mark.redis


def relay_to(url, outbox, uploads) -> Relay:
    collector = Collector(uploads._engine, uploads._files)
    return Relay(
        outbox,
        InspectionStore(uploads._engine),
        uploads,
        collector,
        LeaseWatch(uploads._engine, lease_seconds=5, max_attempts=3),
        create_celery_app(url),
        sweep_seconds=0.1,
        has_space=lambda: True,
    )


@pytest.fixture
def uploads(store, tmp_path) -> UploadStore:
    return UploadStore(store.engine, FileStore(tmp_path / "files"), keep_seconds=3600)


@pytest.fixture
def submit(store):
    request = ConvertRequest(source=Source(zoo="digits_resnet26"))
    return lambda: store.submit(request, tenant="default").id


def length(url) -> int:
    with redis.Redis.from_url(url) as client:
        return client.llen(CONVERT_QUEUE)


def test_a_job_is_announced_once_by_its_id(redis_url, outbox, uploads, submit):
    job_id = submit()
    relay = relay_to(redis_url, outbox, uploads)
    relay.publish()
    relay.publish()
    relay.sweep()
    with redis.Redis.from_url(redis_url) as client:
        [message] = client.lrange(CONVERT_QUEUE, 0, -1)
    body = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert body[:2] == [[job_id], {}], "the id and nothing else"
    assert outbox.waiting() == []


def test_messages_that_the_broker_lost_are_sent_again(redis_url, outbox, uploads, submit, store):
    relay = relay_to(redis_url, outbox, uploads)
    for _ in range(3):
        submit()
    relay.publish()
    assert length(redis_url) == 3
    with redis.Redis.from_url(redis_url) as client:
        client.delete(CONVERT_QUEUE)
    with store.engine.begin() as connection:
        connection.execute(update(messages).values(sent_at=database_now() - 60))
    relay.sweep()
    relay.publish()
    assert length(redis_url) == 3
    relay.sweep()
    relay.publish()
    assert length(redis_url) == 3


def test_uploads_whose_time_is_over_are_dropped(redis_url, outbox, store, tmp_path):
    files = FileStore(tmp_path / "files")
    uploads = UploadStore(store.engine, files, keep_seconds=0.05)
    kept = []
    for content in (b"one", b"two"):
        with files.temporary_folder() as folder:
            path = folder / "file"
            path.write_bytes(content)
            kept.append(uploads.keep(path, tenant="default"))
    time.sleep(0.1)
    relay_to(redis_url, outbox, uploads).sweep()
    assert not any(files.received_path(each.id).exists() for each in kept)
    with pytest.raises(LookupError):
        uploads.drop(kept[0].id, tenant="default")


def test_a_broker_that_is_away_loses_nothing_and_stops_nothing(
    redis_url, outbox, uploads, submit, caplog
):
    submit()
    stopped = threading.Event()
    relay = relay_to("redis://127.0.0.1:1/0", outbox, uploads)
    thread = threading.Thread(target=relay.run, args=(stopped,))
    thread.start()
    time.sleep(1.5)
    assert thread.is_alive()
    stopped.set()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(outbox.waiting()) == 1
    assert caplog.text.count("do not answer") == 1
    relay_to(redis_url, outbox, uploads).publish()
    assert length(redis_url) == 1
