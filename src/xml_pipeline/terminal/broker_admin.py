"""Ways to RabbitMQ's administration: its management plugin over HTTP, and rabbitmqctl."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from xml_pipeline.errors import BrokerUnavailable, InvalidInput, Refused

_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
# As a file: without one rabbitmqctl 4.0 reads standard input, and does not see its end.
_STDIN = "/dev/stdin"


def vhost_of(url: str) -> str:
    """The virtual host that an AMQP URL names; none is `/`."""
    return unquote(urlsplit(url).path[1:]) or "/"


def by_management(address: str, definitions: str) -> None:
    """Import definitions. Raises InvalidInput, BrokerUnavailable, and Refused with what RabbitMQ says."""
    ask_management(address, "POST", "definitions", definitions)


def ask_management(address: str, method: str, path: str, body: str | None = None) -> Any:
    """What the management plugin answers under `/api/`, None where it says nothing.

    Raises InvalidInput for an address that cannot be one, BrokerUnavailable, and Refused.
    """
    headers = {"content-type": "application/json"} if body is not None else {}
    try:
        url = httpx.URL(f"{address.rstrip('/')}/api/{path}")
        answer = httpx.request(method, url, content=body, headers=headers, timeout=_SECONDS, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InvalidInput(f"the management plugin's address is like http://user:password@host:15672: {error}") from error
    except httpx.TransportError as error:
        raise BrokerUnavailable(f"the management plugin at {_place(url)} does not answer: {error}") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise Refused(f"the management plugin at {_place(url)} refused the login: it takes an administrator's")
    if answer.is_error:
        raise Refused(f"the management plugin at {_place(url)} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json() if answer.content else None


def by_rabbitmqctl(command: str, definitions: str) -> None:
    """Import definitions through standard input. Raises InvalidInput, and Refused with what rabbitmqctl says."""
    words = shlex.split(command)
    if not words:
        raise InvalidInput("--rabbitmqctl names no command")
    try:
        done = subprocess.run(  # noqa: S603 - the command is the caller's own
            [*words, "import_definitions", _STDIN],
            input=definitions,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
    except OSError as error:
        raise InvalidInput(f"{words[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(f"{words[0]} did not end within {_COMMAND_SECONDS:.0f} seconds") from error
    if done.returncode != 0:
        raise Refused(f"{words[0]} import_definitions: {(done.stderr or done.stdout).strip()[:500]}")


def _place(url: httpx.URL) -> str:
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
