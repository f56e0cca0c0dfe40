"""What the contract suite is run against: an organism behind HTTP and WebSocket, however it is built."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import httpx
from starlette.testclient import TestClient, WebSocketTestSession
from websockets.sync.client import ClientConnection, connect

T = TypeVar("T")
API = "/api/v1"


# Starlette's TestClient and httpx.Client have the same methods, and no common class that can be told.
Http = Any


class Socket(Protocol):
    """One WebSocket client."""

    def send_text(self, text: str) -> None: ...

    def receive(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Target:
    """One organism with the listeners `greeter` (an agent, peer `shouter`, takes `name`) and `shouter` (a tool).

    `http` and `other` are two gateways of it, or one twice.
    """

    http: Http
    other: Http
    open_socket: Callable[[str], AbstractContextManager[Socket]]
    organism: str = "hello-world"
    limit: float = 30.0
    forgotten: list[str] = field(default_factory=list)

    def get(self, path: str, **parameters: Any) -> Any:
        """GET that must succeed."""
        answer = self.http.request("GET", API + path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST, whatever comes of it."""
        content = None if body is None else json.dumps(body)
        return self.http.request(
            "POST", API + path, content=content, headers={"content-type": "application/json", **headers}
        )

    def status(self, path: str, **parameters: Any) -> int:
        """The status of a GET."""
        return int(self.http.request("GET", API + path, params=parameters).status_code)

    def inject(self, name: str = "Dan", *, thread: str | None = None, to: str = "greeter") -> tuple[str, str]:
        """Inject a greeting that must be accepted; thread and message."""
        body = {"to": to, "payload": {"name": name}, **({"threadId": thread} if thread else {})}
        answer = self.post("/inject", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["threadId"], answer.json()["messageId"]

    @contextmanager
    def socket(self, path: str = "/ws", **subscribe: Any) -> Iterator[Socket]:
        """A client that has been greeted and has subscribed, if it is told to."""
        with self.open_socket(path) as socket:
            if path == "/ws":
                assert socket.receive()["event"] == "connected"
            if subscribe:
                tell(socket, cmd="subscribe", **subscribe)
                while socket.receive()["event"] != "subscribed":
                    """What others do meanwhile is told until then."""
            yield socket

    def until(self, probe: Callable[[], T], what: str) -> T:
        """Poll until the probe gives something true."""
        deadline = time.monotonic() + self.limit
        while True:
            value = probe()
            if value:
                return value
            assert time.monotonic() < deadline, f"{what}: not within {self.limit} s"
            time.sleep(0.02)


def tell(socket: Socket, **command: Any) -> None:
    """Send a command."""
    socket.send_text(json.dumps(command))


def ask(socket: Socket, **command: Any) -> dict[str, Any]:
    """Send a command and take what comes next."""
    tell(socket, **command)
    return socket.receive()


def new_thread() -> str:
    """The id of a thread that nobody has seen."""
    return str(uuid4())


class InProcessSocket:
    """A WebSocket client of an app in this process."""

    def __init__(self, session: WebSocketTestSession) -> None:
        self._session = session

    def send_text(self, text: str) -> None:
        self._session.send_text(text)

    def receive(self) -> dict[str, Any]:
        return dict(self._session.receive_json())


class NetworkSocket:
    """A WebSocket client over the network."""

    def __init__(self, connection: ClientConnection, limit: float) -> None:
        self._connection = connection
        self._limit = limit

    def send_text(self, text: str) -> None:
        self._connection.send(text)

    def receive(self) -> dict[str, Any]:
        return dict(json.loads(self._connection.recv(timeout=self._limit)))


def in_process_target(client: TestClient, **options: Any) -> Target:
    """The app of this client."""

    @contextmanager
    def open_socket(path: str) -> Iterator[Socket]:
        with client.websocket_connect(path) as session:
            yield InProcessSocket(session)

    return Target(client, client, open_socket, **options)


@contextmanager
def network_target(
    url: str, other: str | None = None, *, limit: float = 30.0, key: str | None = None, **options: Any
) -> Iterator[Target]:
    """The gateways at these URLs (`http://host:port`), asked with this API key."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    @contextmanager
    def open_socket(path: str) -> Iterator[Socket]:
        with connect(url.replace("http", "ws", 1) + path, max_size=None, additional_headers=headers) as connection:
            yield NetworkSocket(connection, limit)

    with (
        httpx.Client(base_url=url, timeout=limit, headers=headers) as http,
        httpx.Client(base_url=other or url, timeout=limit, headers=headers) as second,
    ):
        yield Target(http, second, open_socket, limit=limit, **options)


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem document of a failed request."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert isinstance(body["detail"], str)
    assert body["status"] == status
    assert body["code"]
    return dict(body)


def camel_case_only(value: Any) -> bool:
    """Whether no key of the API's own objects has an underscore; payloads are the organism's."""
    if isinstance(value, Mapping):
        return all("_" not in key and (key == "payload" or camel_case_only(item)) for key, item in value.items())
    if isinstance(value, list):
        return all(camel_case_only(item) for item in value)
    return True
