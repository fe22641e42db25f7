"""Multipart bodies: whole ones arrive, all others are refused and leave no open file."""

from __future__ import annotations

import asyncio

import pytest

from api.multipart import MAX_REQUEST_BYTES, receive_parts
from api.problems import Problem

TYPE = "multipart/form-data; boundary=XX"


def part(name: str, content: bytes, extra: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def receive(
    body: bytes, folder, *, content_type: str = TYPE, max_bytes: int = 1 << 20, step: int = 7
):
    async def chunks():
        for start in range(0, len(body), step):
            yield body[start : start + step]

    return asyncio.run(receive_parts(chunks(), content_type, folder, max_bytes=max_bytes))


END = b"--XX--\r\n"


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_files_and_request_arrive_whatever_the_pieces(tmp_path, step):
    weights = bytes(range(256)) * 40 + b"\r\n--X\r\n--XY"
    body = (
        part("request", b'{"seed": 1}')
        + part("checkpoint", weights, '; filename="../../evil.pt"')
        + part("data", b"", '; filename="d.npz"')
        + END
    )
    parts = receive(body, tmp_path, step=step)
    assert parts.request == b'{"seed": 1}'
    assert parts.files == {"checkpoint": tmp_path / "checkpoint", "data": tmp_path / "data"}
    assert parts.files["checkpoint"].read_bytes() == weights
    assert parts.files["data"].read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "data"]


def test_a_request_may_come_as_a_file(tmp_path):
    body = part("request", b"{}", '; filename="request.json"') + END
    assert receive(body, tmp_path).request == b"{}"


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (part("weights", b"x") + END, "unknown_part", 422),
        (part("data", b"x") * 2 + END, "unknown_part", 422),
        (part("request", b"{}") * 2 + END, "unknown_part", 422),
        (part("request", b"x" * (MAX_REQUEST_BYTES + 1)) + END, "request_too_large", 413),
        (part("data", b"x" * 2_000_000) + END, "upload_too_large", 413),
        (part("data", b"x" * 1000), "malformed_multipart", 400),
        (b"--YY\r\n\r\n", "malformed_multipart", 400),
        (b"", "malformed_multipart", 400),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "unknown_part", 422),
    ],
)
def test_a_wrong_body_is_refused(tmp_path, body, code, status):
    with pytest.raises(Problem) as caught:
        receive(body, tmp_path, step=100_000)
    assert (caught.value.code, caught.value.status) == (code, status)


def test_a_type_without_boundary_is_refused(tmp_path):
    with pytest.raises(Problem, match="no boundary"):
        receive(part("data", b"x") + END, tmp_path, content_type="multipart/form-data")
