"""RabbitMQ's management plugin, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httpx

from xml_pipeline.errors import BrokerUnavailable, InvalidInput, NotFound, Refused
from xml_pipeline.message_bus.facts import ManagementFacts, NodeFacts, UserFacts
from xml_pipeline.message_bus.rights import NOTHING, BrokerRights, TopicRights

_SECONDS = 10.0
_ADDRESS = "the management plugin's address is like http://user:password@host:15672"
_ALARMS = {"mem_alarm": "memory", "disk_free_alarm": "disk"}


def vhost_of(url: str) -> str:
    """The virtual host that an AMQP URL names; none is `/`. Raises InvalidInput for what is no URL."""
    try:
        return unquote(urlsplit(url).path[1:]) or "/"
    except ValueError as error:
        raise InvalidInput("ORGANISM_AMQP_URL cannot be read: it is like amqp://user:password@host:5672") from error


def with_login_of(address: str, amqp_url: str) -> str:
    """The address, with the password of the AMQP URL where it names the same user and none of its own.

    So that one password file serves both. What is no address stays as it is, and is refused when it is asked.
    """
    try:
        wanted, amqp = urlsplit(address), urlsplit(amqp_url)
    except ValueError:
        return address
    if not wanted.username or wanted.password is not None or wanted.username != amqp.username or not amqp.password:
        return address
    place = wanted.netloc.rpartition("@")[2]
    return urlunsplit(wanted._replace(netloc=f"{amqp.username}:{amqp.password}@{place}"))


def import_definitions(address: str, definitions: str) -> None:
    """Raises InvalidInput, BrokerUnavailable, and Refused with what RabbitMQ says."""
    answer = _ask_plugin(address, "POST", "definitions", definitions)
    # The plugin says nothing where all went well; others may take anything, and show a page.
    if answer.content:
        raise _no_plugin(answer.url)


def look_at_management(address: str, vhost: str, users: Iterable[str], exchange: str) -> ManagementFacts:
    """Nodes, and the rights of these users in the virtual host and on the topic exchange.

    Raises InvalidInput, BrokerUnavailable, and Refused where the login is no administrator's, or there is no plugin.
    """
    answer = _ask_plugin(address, "GET", "nodes")
    nodes = _nodes(answer)
    told, asked_at = answer.headers.get("date"), datetime.now(UTC)
    found = {name: _user(address, vhost, name, exchange) for name in users}
    return ManagementFacts(
        nodes=nodes,
        users={name: user for name, user in found.items() if user is not None},
        clock=parsedate_to_datetime(told) if told else None,
        asked_at=asked_at,
    )


def _nodes(answer: httpx.Response) -> tuple[NodeFacts, ...]:
    found = _objects(answer)
    if not all("name" in node for node in found):
        raise _no_plugin(answer.url)
    return tuple(_node(node) for node in found)


def _node(node: Mapping[str, Any]) -> NodeFacts:
    alarms = tuple(word for key, word in _ALARMS.items() if node.get(key))
    return NodeFacts(str(node["name"]), bool(node.get("running")), alarms)


def _user(address: str, vhost: str, name: str, exchange: str) -> UserFacts | None:
    try:
        user = _object(_ask(address, "GET", f"users/{quote(name, safe='')}"))
    except NotFound:
        return None
    path = f"{quote(vhost, safe='')}/{quote(name, safe='')}"
    tags = user.get("tags") or ()
    # A list of words, and before RabbitMQ 3.9 one with commas.
    words = tags.split(",") if isinstance(tags, str) else tags
    return UserFacts(name, tuple(word for word in words if word), _rights(address, path, exchange))


def _rights(address: str, path: str, exchange: str) -> BrokerRights | None:
    try:
        rights = _object(_ask(address, "GET", f"permissions/{path}"))
    except NotFound:
        return None
    return BrokerRights(rights["configure"], rights["write"], rights["read"], _topic(address, path, exchange))


def _topic(address: str, path: str, exchange: str) -> TopicRights:
    """Who has none for an exchange may use all its keys."""
    try:
        found = _objects(_ask(address, "GET", f"topic-permissions/{path}"))
    except NotFound:
        found = []
    for one in found:
        if one["exchange"] == exchange:
            return TopicRights(exchange, one["write"] or NOTHING, one["read"] or NOTHING)
    return TopicRights(exchange, write=".*", read=".*")


def _ask_plugin(address: str, method: str, path: str, body: str | None = None) -> httpx.Response:
    """Ask for what every management plugin knows."""
    try:
        return _ask(address, method, path, body)
    except NotFound as error:
        raise _no_plugin(_url(address, path)) from error


def _object(answer: httpx.Response) -> dict[str, Any]:
    found = _json(answer)
    if not isinstance(found, dict):
        raise _no_plugin(answer.url)
    return found


def _objects(answer: httpx.Response) -> list[dict[str, Any]]:
    found = _json(answer)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _no_plugin(answer.url)
    return found


def _json(answer: httpx.Response) -> object:
    try:
        return answer.json()
    except ValueError as error:
        raise _no_plugin(answer.url) from error


def _no_plugin(url: httpx.URL) -> Refused:
    return Refused(f"what answers at {_place(url)} is no management plugin of RabbitMQ")


def _ask(address: str, method: str, path: str, body: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"} if body is not None else {}
    url = _url(address, path)
    try:
        answer = httpx.request(method, url, content=body, headers=headers, timeout=_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        raise BrokerUnavailable(f"the management plugin at {_place(url)} does not answer: {error}") from error
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Refused(f"the management plugin at {_place(url)} refused the login: it takes an administrator's")
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"the management plugin at {_place(url)} knows no {path}")
    if answer.is_redirect:
        raise _no_plugin(url)
    if answer.is_error:
        raise Refused(f"the management plugin at {_place(url)} answered {answer.status_code}: {answer.text[:300]}")
    return answer


def _url(address: str, path: str) -> httpx.URL:
    try:
        port, url = urlsplit(address).port, httpx.URL(f"{address.rstrip('/')}/api/{path}")
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidInput(_ADDRESS) from error
    if url.scheme not in ("http", "https") or not url.host or port == 0:
        raise InvalidInput(_ADDRESS)
    return url


def _place(url: httpx.URL) -> str:
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
