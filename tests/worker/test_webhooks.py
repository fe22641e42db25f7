"""Messages to a real receiver, whose signatures the rules' own library checks."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest
from standardwebhooks import Webhook as Verifier

from worker.contract.request import ConvertRequest, Source
from worker.contract.webhook_store import DeliveryState, WebhookStore
from worker.webhooks import POLL_SECONDS, WebhookSender

LOOPBACK = [ip_network("127.0.0.0/8")]


class Receiver(ThreadingHTTPServer):
    """Keeps what it is told, and answers as it is set to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.headers: dict[str, str] = {}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({key.lower(): one for key, one in self.headers.items()}, body))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hooks(store) -> WebhookStore:
    return WebhookStore(store.engine)


@contextmanager
def sending(hooks, store, networks=LOOPBACK, **options):
    stopped = threading.Event()
    sender = WebhookSender(hooks, store, networks=networks, **options)
    thread = threading.Thread(target=sender.run, args=(stopped,))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@pytest.fixture
def hook(hooks, receiver):
    url = f"http://127.0.0.1:{receiver.server_port}/hook?a=b"
    return hooks.create(tenant="default", url=url, kinds=["cancelled"])


def cancel_one(store) -> str:
    request = ConvertRequest(source=Source(zoo="resnet50"), name="mine", tags=("t",))
    job_id = store.submit(request, tenant="default").id
    store.cancel(job_id, tenant="default")
    return job_id


def attempted(hooks, webhook_id, *, attempts=1):
    """Wait for the outcome of a message's attempt."""
    for _ in range(400):
        [found] = hooks.deliveries_of(webhook_id)
        if found.attempts >= attempts and (found.problem or found.finished_at):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_message_says_what_happened_and_is_signed(hooks, store, receiver, hook):
    webhook, secret = hook
    job_id = cancel_one(store)
    with sending(hooks, store):
        found = attempted(hooks, webhook.id)
    assert (found.state, found.status, found.problem) == (DeliveryState.DELIVERED, 204, None)
    [(headers, body)] = receiver.got
    message = Verifier(secret).verify(body, headers)
    assert message == json.loads(body)
    assert message["type"] == "job.cancelled"
    assert message["data"] == {
        "id": job_id,
        "name": "mine",
        "tags": ["t"],
        "state": "cancelled",
        "error": None,
        "url": f"/jobs/{job_id}",
    }
    assert headers["host"] == f"127.0.0.1:{receiver.server_port}"
    with pytest.raises(Exception, match="signature"):
        Verifier(secret).verify(body + b" ", headers)


def test_the_same_message_has_the_same_id_when_it_comes_again(hooks, store, receiver, hook):
    webhook, _ = hook
    receiver.status = 500
    cancel_one(store)
    with sending(hooks, store):
        found = attempted(hooks, webhook.id)
        assert (found.state, found.status) == (DeliveryState.PENDING, 500)
        assert "500" in found.problem
        receiver.status = 200
        hooks.send_again(found.id, webhook_id=webhook.id)
        for _ in range(400):
            if hooks.deliveries_of(webhook.id)[0].state == DeliveryState.DELIVERED:
                break
            time.sleep(0.05)
    first, second = (headers["webhook-id"] for headers, _ in receiver.got)
    assert first == second


@pytest.mark.fault(34)
def test_a_redirect_is_not_followed(hooks, store, receiver, hook):
    receiver.status = 307
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.server_port}/other"}
    cancel_one(store)
    with sending(hooks, store):
        assert attempted(hooks, hook[0].id).status == 307
    assert len(receiver.got) == 1


@pytest.mark.parametrize("location", ["http:foo", "http://[::1", "//"])
@pytest.mark.fault(34)
def test_no_answer_ends_the_sender(hooks, store, receiver, hook, location):
    receiver.status = 302
    receiver.headers = {"Location": location}
    cancel_one(store)
    with sending(hooks, store):
        attempted(hooks, hook[0].id)
        receiver.status = 200
        hooks.send_again(hooks.deliveries_of(hook[0].id)[0].id, webhook_id=hook[0].id)
        for _ in range(400):
            [found] = hooks.deliveries_of(hook[0].id)
            if found.state == DeliveryState.DELIVERED:
                break
            time.sleep(0.05)
    assert found.state == DeliveryState.DELIVERED


@pytest.mark.fault(34)
def test_a_receiver_that_drips_loses_its_time_and_holds_up_nobody(hooks, store, receiver, hook):
    """A byte now and then would keep a limit on silence from ever being reached."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        slow, _ = hooks.create(tenant="default", url=url, kinds=["cancelled"])
        cancel_one(store)
        with sending(hooks, store, send_seconds=3.0):
            assert attempted(hooks, hook[0].id).state == DeliveryState.DELIVERED
            assert "within 3 seconds" in attempted(hooks, slow.id).problem


def drip(listener) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while True:
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.2)


def test_a_receiver_that_is_gone_is_not_called_again(hooks, store, receiver, hook):
    receiver.status = 410
    cancel_one(store)
    with sending(hooks, store):
        assert attempted(hooks, hook[0].id).state == DeliveryState.FAILED
        cancel_one(store)
        time.sleep(4 * POLL_SECONDS)
    assert hooks.get(hook[0].id, tenant="default").disabled_at is not None
    assert len(receiver.got) == 1


def test_an_address_that_turned_private_is_not_called(hooks, store, receiver, hook):
    """The network was allowed when the webhook was made."""
    cancel_one(store)
    with sending(hooks, store, networks=[]):
        assert "not public" in attempted(hooks, hook[0].id).problem
    assert receiver.got == []


@pytest.mark.fault(34)
def test_a_receiver_that_cannot_be_reached_is_tried_again_and_the_job_has_ended(hooks, store):
    webhook, _ = hooks.create(tenant="default", url="http://127.0.0.1:9/", kinds=["cancelled"])
    job_id = cancel_one(store)
    with sending(hooks, store):
        found = attempted(hooks, webhook.id)
    assert (found.state, found.status) == (DeliveryState.PENDING, None)
    assert "could not be reached" in found.problem
    assert store.get(job_id, tenant="default").state == "cancelled"


def test_its_end_does_not_wait_for_a_name_server(hooks, store, hook, monkeypatch):
    asked, answers = threading.Event(), threading.Event()

    def hang(*_, **__):
        asked.set()
        answers.wait(20)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    cancel_one(store)
    try:
        with sending(hooks, store):
            assert asked.wait(10)
            started = time.monotonic()
        assert time.monotonic() - started < 5
    finally:
        answers.set()
