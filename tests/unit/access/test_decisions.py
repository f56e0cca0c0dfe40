"""What headers say about a visitor."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.access.decisions import (
    Headers,
    host_is_ours,
    is_loopback,
    origin_is_ours,
    presented_secrets,
    read_allowed_hosts,
)
from xml_pipeline.errors import InvalidInput

NONE: frozenset[str] = frozenset()
ALLOWED = frozenset({"organism.lan", "10.0.0.5"})


def host(*values: str) -> Headers:
    return [(b"host", value.encode("latin-1")) for value in values]


def origin(*values: str) -> Headers:
    return [(b"origin", value.encode("latin-1")) for value in values]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], set()),
        ([(b"authorization", b"Bearer xp_a")], {b"xp_a"}),
        ([(b"authorization", b"bEARER   xp_a ")], {b"xp_a"}),
        ([(b"x-api-key", b" xp_a ")], {b"xp_a"}),
        ([(b"authorization", b"Bearer xp_a"), (b"x-api-key", b"xp_a")], {b"xp_a"}),
        ([(b"authorization", b"Bearer xp_a"), (b"x-api-key", b"xp_b")], {b"xp_a", b"xp_b"}),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"xp_a")], {b"xp_a"}),
        ([(b"authorization", b"Basic dTpw")], set()),
        ([(b"authorization", b"Bearer")], set()),
        ([(b"authorization", b"xp_a")], set()),
        ([(b"x-api-key", b"")], set()),
        ([(b"cookie", b"Bearer xp_a")], set()),
    ],
)
def test_the_secret_of_a_request(headers: Headers, expected: set[bytes]) -> None:
    assert presented_secrets(headers) == expected


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"host"]), st.binary())))
def test_no_header_is_too_odd_to_be_read(headers: list[tuple[bytes, bytes]]) -> None:
    assert b"" not in presented_secrets(headers)
    assert host_is_ours(headers, NONE) in (True, False)
    assert origin_is_ours([(b"origin", value) for _, value in headers], NONE) in (True, False)


@pytest.mark.parametrize(
    "value",
    ["localhost", "localhost:8080", "LocalHost:1", "localhost.", "127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]:80"],
)
def test_loopback_is_ours(value: str) -> None:
    assert host_is_ours(host(value), NONE)
    assert origin_is_ours(origin(f"http://{value}"), NONE)
    assert origin_is_ours(origin(f"https://{value}"), NONE)


@pytest.mark.parametrize(
    "value",
    [
        "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost",
        "192.168.0.1", "[::]", "[2001:db8::1]:80", "", ":80", "localhost:", "localhost:80:80",
        "localhost, evil.example", "localhost evil.example", "user@localhost", "localhost/x", "localhost\xa0", "127.1",
    ],
)  # fmt: skip
def test_the_rest_is_not(value: str) -> None:
    assert not host_is_ours(host(value), NONE)
    assert not origin_is_ours(origin(f"http://{value}"), NONE)


def test_configured_hosts_are_ours() -> None:
    for value in ("organism.lan", "Organism.LAN:8080", "10.0.0.5:80"):
        assert host_is_ours(host(value), ALLOWED)
        assert origin_is_ours(origin(f"https://{value}"), ALLOWED)
    assert not host_is_ours(host("x.organism.lan"), ALLOWED)


def test_a_host_must_be_said_once() -> None:
    assert not host_is_ours([], NONE)
    assert not host_is_ours(host("localhost", "localhost"), NONE)


@pytest.mark.parametrize(
    "value", ["null", "", "localhost", "file://localhost", "ftp://localhost", "http://", "http://localhost/x"]
)
def test_what_is_no_origin_of_a_page_of_ours(value: str) -> None:
    assert not origin_is_ours(origin(value), NONE)


def test_programs_send_no_origin_and_browsers_one() -> None:
    assert origin_is_ours([], NONE)
    assert not origin_is_ours(origin("http://localhost", "http://localhost"), NONE)


@given(st.integers(0, 2**24 - 1))
def test_all_of_127_is_loopback(low: int) -> None:
    assert is_loopback(str(IPv4Address(0x7F000000 + low)))


@given(st.ip_addresses(v=4).filter(lambda address: address.packed[0] != 127))
def test_nothing_else_of_version_4_is(address: IPv4Address) -> None:
    assert not is_loopback(str(address))
    assert not is_loopback(f"::ffff:{address}")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("::1", True), ("::ffff:127.0.0.1", True), ("::", False), ("fe80::1%1", False), ("localhost", False), ("", False)],
)
def test_other_addresses(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_allowed_hosts_are_read() -> None:
    assert read_allowed_hosts("") == NONE
    assert read_allowed_hosts(" Organism.lan ,, 10.0.0.5,[fe80::1] ") == {"organism.lan", "10.0.0.5", "[fe80::1]"}


@pytest.mark.parametrize("text", ["http://organism.lan", "organism.lan:8080", "*", "a b", "fe80::1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="ORGANISM_ALLOWED_HOSTS"):
        read_allowed_hosts(f"ok.lan,{text}")
