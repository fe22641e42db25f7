"""Clients that send slowly, or a head without end, lose their connection; others notice nothing."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress

import anyio
import httpx
import pytest

from api.app import create_app
from tests.api.conftest import served
from worker.contract.job_claims import JobClaims
from worker.contract.settings import Settings

SECONDS = 1.0


@pytest.fixture
def address(tmp_path):
    settings = Settings(
        data_dir=tmp_path / "data",
        broker_url="redis://127.0.0.1:1/0",
        min_free_bytes=0,
        receive_seconds=SECONDS,
        min_bytes_per_second=1000,
    )
    with served(create_app(settings), head_seconds=SECONDS) as client:
        yield client.base_url.host, client.base_url.port


def head(length: int) -> bytes:
    lines = ["POST /uploads HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    connection.settimeout(20 * SECONDS)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
def test_a_head_that_does_not_end_loses_its_connection(address, start):
    with socket.create_connection(address) as connection:
        connection.sendall(start)
        assert everything(connection) == b""


def test_a_second_request_has_a_deadline_too(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /heal")
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_bytes_that_trickle_do_not_buy_time_without_end(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head(10_000))
        connection.settimeout(0.05)
        answer = b""
        for _ in range(int(10 * SECONDS / 0.05)):
            connection.sendall(b"x")
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408"), answer
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["code"] == "too_slow"


def test_what_comes_fast_enough_may_take_longer(address):
    """Three times the seconds, at ten times the rate."""
    with socket.create_connection(address) as connection:
        connection.sendall(head(30 * 1000))
        for _ in range(30):
            connection.sendall(b"x" * 1000)
            time.sleep(SECONDS / 10)
        connection.settimeout(10)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize("line", [b"X-{}: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_a_head_beyond_all_measure_is_refused(tmp_path, line):
    """Many headers, or one that does not end; long before its time is over."""
    settings = Settings(data_dir=tmp_path / "d", broker_url="redis://127.0.0.1:1/0")
    with served(create_app(settings), head_seconds=600) as client:
        host, port = client.base_url.host, client.base_url.port
        with socket.create_connection((host, port)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ")
            for number in range(60):
                connection.sendall(line.replace(b"{}", str(number).encode()))
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)  # so far it may still become a request
            connection.settimeout(10)
            with suppress(ConnectionError):  # it may be closed while we write
                for _ in range(300):
                    connection.sendall(line)
            with suppress(ConnectionError):
                assert everything(connection)[:12] in (b"", b"HTTP/1.1 400")
        assert client.get("/healthz").status_code == 200


def test_line_ends_after_an_answer_do_not_keep_a_connection_open(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        connection.settimeout(20 * SECONDS)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert everything(connection) == b""


def test_the_rest_of_a_refused_body_does_not_keep_a_connection_open(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head(10**12))
        connection.settimeout(20 * SECONDS)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
        connection.sendall(b"x")
        assert everything(connection) == b""


def test_a_body_that_was_fast_may_not_fall_silent(address):
    """What has come would be worth a thousand seconds; the line is dead all the same."""
    with socket.create_connection(address) as connection:
        connection.sendall(head(2_000_000) + b"x" * 1_000_000)
        started = time.monotonic()
        connection.settimeout(20 * SECONDS)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 19 * SECONDS


def test_a_slow_body_of_json_is_said_to_be_slow(address):
    with socket.create_connection(address) as connection:
        lines = ["POST /webhooks HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
        start = "\r\n".join([*lines, "Content-Length: 100", "", "{"]).encode()
        connection.sendall(start)
        connection.settimeout(20 * SECONDS)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_many_slow_clients_keep_nobody_out(address):
    host, port = address
    with ExitStack() as stack:
        slow = []
        for number in range(200):
            slow.append(stack.enter_context(socket.create_connection(address)))
            slow[-1].sendall(head(1000) if number % 2 else b"GET /healthz HTTP/1.1\r\n")
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client:
            assert client.get("/healthz").status_code == 200
        answers = [everything(connection) for connection in slow]
    assert all(one == b"" or b" 408 " in one for one in answers)
    assert sum(b" 408 " in one for one in answers) == 100


LARGE = 20 << 20


@pytest.fixture
def downloading(address_of_download):
    """A connection over which a large download has begun, and its head."""
    (host, port), path = address_of_download
    with socket.socket() as connection:
        # Little room at this end, so that what is not read stays with the service.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        connection.connect((host, port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        yield connection


@pytest.fixture
def address_of_download(tmp_path, finish):
    settings = Settings(data_dir=tmp_path / "data", broker_url="redis://127.0.0.1:1/0")
    application = create_app(settings.model_copy(update={"min_free_bytes": 0}))
    service = application.state.service
    with served(
        application, head_seconds=SECONDS, min_bytes_per_second=100_000, send_buffer=1 << 13
    ) as client:
        job = client.post("/convert", json={"source": {"zoo": "digits_resnet26"}}).json()["id"]
        finish(service, JobClaims(service.store.engine, lease_seconds=30), job, b"w" * LARGE)
        yield (client.base_url.host, client.base_url.port), f"/jobs/{job}/weights"


def seconds_until_reset(connection: socket.socket) -> float:
    started = time.monotonic()
    while not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        assert time.monotonic() - started < 20 * SECONDS
        time.sleep(SECONDS / 20)
    return time.monotonic() - started


def test_a_reader_that_takes_nothing_loses_its_connection(downloading):
    assert SECONDS / 2 < seconds_until_reset(downloading) < 15 * SECONDS


def test_a_reader_that_trickles_loses_its_connection(downloading):
    started, received = time.monotonic(), 0
    with suppress(ConnectionError):
        while time.monotonic() - started < 20 * SECONDS:
            received += len(downloading.recv(100))
            time.sleep(0.02)
    assert received < LARGE
    assert time.monotonic() - started < 19 * SECONDS


def test_a_reader_that_is_slow_but_goes_on_gets_everything(downloading):
    """At twenty times the least rate, for longer than the time that a standstill may last."""
    started, received = time.monotonic(), 0
    while received < LARGE:
        received += len(downloading.recv(1 << 16))
        ahead = received / 5_000_000 - (time.monotonic() - started)
        time.sleep(max(ahead, 0))
    assert time.monotonic() - started > 3 * SECONDS


def test_a_small_answer_that_nobody_takes_does_not_keep_its_connection(address_of_download):
    """It fits into what the service may still hold: nothing waits, and yet nothing moves."""
    (host, port), path = address_of_download
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.connect((host, port))
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Range: bytes=0-50000", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert SECONDS / 2 < seconds_until_reset(connection) < 15 * SECONDS


def test_of_a_download_whose_client_has_left_no_more_is_read(
    downloading, address_of_download, monkeypatch
):
    read = []
    original = anyio.AsyncFile.read

    async def counted(self, size=-1):
        read.append(size)
        return await original(self, size)

    monkeypatch.setattr(anyio.AsyncFile, "read", counted)
    downloading.recv(1)
    downloading.close()
    time.sleep(2 * SECONDS)
    assert sum(read) < LARGE / 4
