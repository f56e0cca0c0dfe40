"""The API of a running organism, as the command line uses it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from xml_pipeline.errors import InvalidInput, Unavailable, XmlPipelineError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT = 30.0
# The longest that a gateway waits for an answer; more is waited for by asking again with the same key.
_LONGEST_WAIT = 60.0

Json = Mapping[str, Any]


class ApiRefused(XmlPipelineError):
    """The organism answered with an error; the message is what it said."""

    code = "api-refused"

    def __init__(self, status: int, lines: list[str]) -> None:
        self.status = status
        self.lines = lines
        super().__init__("; ".join(lines))


def client_of_environment() -> Client:
    """The organism that ORGANISM_URL names, else the one on this machine; with the key of ORGANISM_API_KEY, if any.

    Raises InvalidInput for what can be no key.
    """
    return Client(os.environ.get("ORGANISM_URL") or DEFAULT_URL, key=key_of(os.environ))


def key_of(environment: Mapping[str, str]) -> str | None:
    """What ORGANISM_API_KEY says, without blanks around it; None where it says nothing.

    Raises InvalidInput where no header can carry it.
    """
    key = environment.get("ORGANISM_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput("ORGANISM_API_KEY is no key: it is one word, as 'organism key create' printed it")
    return key or None


def key_headers(key: str | None) -> dict[str, str]:
    """What a request needs to be let in."""
    return {"Authorization": f"Bearer {key}"} if key else {}


class Client:
    """One organism at one URL, for whoever has a key or needs none."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(base_url=f"{self._url}/api/v1", timeout=_TIMEOUT, headers=key_headers(key))

    def get(self, path: str, **params: str | int | None) -> Json:
        """Read something. Raises ApiRefused, and Unavailable where no organism answers."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, body: Json) -> Json:
        """Ask for something to be done. Raises as `get` does."""
        return self._call("POST", path, json=body)

    def delete(self, path: str) -> Json:
        """Delete something. Raises as `get` does."""
        return self._call("DELETE", path)

    def top_up(self, thread: str, tokens: int, *, key: str | None) -> Json:
        """Give a thread more tokens."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._call("POST", f"/usage/threads/{thread}/top-up", json={"tokens": tokens}, headers=headers)

    def inject(
        self,
        to: str,
        payload: Json,
        *,
        thread: str | None,
        key: str | None,
        wait: float | None,
        tags: Mapping[str, str] | None = None,
    ) -> Json:
        """Send a message to a listener, and wait at most `wait` seconds for what comes back."""
        given = {"threadId": thread or None, "tags": tags}
        body = {"to": to, "payload": payload, **{name: value for name, value in given.items() if value is not None}}
        key = key or str(uuid.uuid4())
        left = wait or 0.0
        while True:
            step = min(left, _LONGEST_WAIT)
            answer = self._inject_once(body, key, step)
            left -= step
            if answer.get("reply") is not None or left <= 0:
                return answer

    def _inject_once(self, body: Json, key: str, wait: float) -> Json:
        headers = {"Idempotency-Key": key, **({"Prefer": f"wait={wait:g}"} if wait else {})}
        return self._call("POST", "/inject", json=body, headers=headers, timeout=_TIMEOUT + wait)

    def _call(self, method: str, path: str, **options: Any) -> Json:  # noqa: ANN401 what httpx takes
        try:
            response = self._http.request(method, path, **options)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Unavailable(f"{self._url} is no URL: set ORGANISM_URL to one like {DEFAULT_URL}") from error
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no organism answers at {self._url}: start one with 'organism up', or set ORGANISM_URL"
            ) from error
        if response.is_error:
            raise ApiRefused(response.status_code, _problem(response))
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise Unavailable(f"what answers at {self._url} is no organism") from error
        return answer


def _problem(response: httpx.Response) -> list[str]:
    try:
        problem = response.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return [f"{response.status_code} {response.reason_phrase}"]
    if response.status_code == httpx.codes.UNAUTHORIZED:
        detail += "; the command line takes it from ORGANISM_API_KEY"
    faults = [(str(fault.get("path")), str(fault.get("message"))) for fault in problem.get("errors") or []]
    return [detail, *(f"  {path}: {message}" for path, message in faults if message not in detail)]
