"""Which addresses may be called on a user's word."""

from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest

from worker.contract.address_guard import RefusedAddressError, check_url

PRIVATE = [
    "127.0.0.1",
    "127.1",
    "localhost",
    "0.0.0.0",
    "0",
    "2130706433",  # 127.0.0.1 as one number
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fd00::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[64:ff9b:1::7f00:1]",
    "[::ffff:0:7f00:1]",
    "[::7f00:1]",
    "192.88.99.1",
    "168.63.129.16",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_an_address_that_is_not_public_is_refused(host):
    with pytest.raises(RefusedAddressError, match=r"not public|no address"):
        check_url(f"https://{host}/hook", [])


@pytest.mark.parametrize("host", ["1.1.1.1", "[2606:4700:4700::1111]", "[::ffff:1.1.1.1]"])
def test_a_public_address_is_taken(host):
    target = check_url(f"https://{host}/hook?a=1", [])
    assert (target.port, target.url.path) == (443, "/hook")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://1.1.1.1/",
        "file:///etc/passwd",
        "gopher://1.1.1.1/",
        "https:///path",
        "1.1.1.1",
        "https://user:secret@1.1.1.1/",
        "https://1.1.1.1:99999/",
        "https://[::1/",
        "https://1.1.1.1/\r\nX: y",
        "https://1.1.1.1/ü",
        "https://1.1.1.1/" + "a" * 2000,
        "",
    ],
)
def test_what_is_no_plain_url_is_refused(url):
    with pytest.raises(RefusedAddressError):
        check_url(url, [])


def test_a_name_without_an_address_is_refused():
    with pytest.raises(RefusedAddressError, match="no address"):
        check_url("https://receiver.invalid/", [])


@pytest.fixture
def names(monkeypatch):
    """What names resolve to; the system's own resolver knows none of them."""
    answers: dict[str, list[str]] = {}

    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers


def test_one_private_address_among_public_ones_is_enough(names):
    names["mixed.example"] = ["1.1.1.1", "10.0.0.1"]
    with pytest.raises(RefusedAddressError, match="not public") as caught:
        check_url("https://mixed.example/", [])
    assert "10.0" not in str(caught.value)  # a map of the operator's network is nobody's business
    names["internal.internal"] = ["192.168.0.1"]
    with pytest.raises(RefusedAddressError):
        check_url("https://internal.internal/", [])


def test_what_was_checked_is_what_is_called(names):
    names["rebound.example"] = ["1.1.1.1"]
    target = check_url("https://rebound.example/", [])
    names["rebound.example"] = ["127.0.0.1"]
    assert target.address == "1.1.1.1"
    with pytest.raises(RefusedAddressError):
        check_url("https://rebound.example/", [])


def test_the_operator_may_allow_a_network():
    allowed = [ip_network("127.0.0.0/8")]
    assert check_url("http://127.0.0.1:8080/", allowed).port == 8080
    assert check_url("http://[::ffff:127.0.0.1]/", allowed).port == 80
    with pytest.raises(RefusedAddressError):
        check_url("http://10.0.0.1/", allowed)
