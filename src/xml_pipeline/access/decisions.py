"""What a request's headers say about who sends it, and from where.

Headers are as ASGI has them: pairs of bytes, the names in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from xml_pipeline.errors import InvalidInput

Headers = Iterable[tuple[bytes, bytes]]

_BEARER = b"bearer"
_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?P<authority>.+)", re.ASCII)


def presented_secrets(headers: Headers) -> frozenset[bytes]:
    """The secrets of `Authorization: Bearer` and `X-API-Key`: none, one, or several that contradict one another."""
    found = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, secret = value.strip().partition(b" ")
            if scheme.lower() == _BEARER:
                found.add(secret.strip())
    return frozenset(found - {b""})


def host_is_ours(headers: Headers, allowed: frozenset[str]) -> bool:
    """Whether the one Host is a name of this machine's loopback, or allowed. A port makes no difference.

    A browser that was sent here under another name (DNS rebinding) says that name.
    """
    hosts = _values(headers, b"host")
    return len(hosts) == 1 and _is_ours(hosts[0], allowed)


def origin_is_ours(headers: Headers, allowed: frozenset[str]) -> bool:
    """Whether no page sent it, or one of a host as `host_is_ours` takes them.

    Browsers let every page open WebSockets and send forms to anywhere, and say in Origin which page it was.
    """
    origins = _values(headers, b"origin")
    if not origins:
        return True
    found = _ORIGIN.fullmatch(origins[0])
    return len(origins) == 1 and found is not None and _is_ours(found["authority"], allowed)


def is_loopback(address: str) -> bool:
    """Whether an IP address is reached from this machine alone."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def read_allowed_hosts(text: str) -> frozenset[str]:
    """Names of hosts, separated by commas. Raises InvalidInput for what is none, or has a port."""
    entries = [entry.strip().lower() for entry in text.split(",") if entry.strip()]
    for entry in entries:
        if _name_of(entry) != entry:
            raise InvalidInput(
                f"ORGANISM_ALLOWED_HOSTS: {entry!r} is no host: names or addresses without scheme or port, "
                "separated by commas; an IPv6 address in brackets"
            )
    return frozenset(entries)


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [value.strip().lower().decode("latin-1") for name, value in headers if name == wanted]


def _is_ours(authority: str, allowed: frozenset[str]) -> bool:
    name = _name_of(authority)
    return name is not None and (name == "localhost" or name in allowed or is_loopback(name.strip("[]")))


def _name_of(authority: str) -> str | None:
    """The host of `host:port`; None for what is none."""
    found = _AUTHORITY.fullmatch(authority)
    return found["name"] if found else None
