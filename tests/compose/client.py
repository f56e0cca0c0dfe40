"""A client that does not give up: it repeats each inject under its key until it is accepted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self
from uuid import uuid4

import httpx

from tests.compose.engine import ComposeFailed

PATIENCE = 120.0
_PAUSE = 0.25


def until(probe: Callable[[], object], what: str, seconds: float) -> None:
    """Look until it is so. Raises ComposeFailed when it is not in time."""
    limit = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > limit:
            raise ComposeFailed(f"{what}: not within {seconds:g} s")
        time.sleep(_PAUSE)


class Client:
    """Injects from some threads at once, and what became of them."""

    def __init__(self, url: str, key: str, workers: int = 8) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=20)
        self._pool = ThreadPoolExecutor(workers)
        self._accepted: list[Future[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Send no more."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    @property
    def sent(self) -> int:
        """How many it has begun to send."""
        return len(self._accepted)

    def greet(self, name: str) -> None:
        """Inject one, and wait for the answer."""
        thread = self._inject(name)
        until(lambda: self.status(thread) == "completed", f"{name} is greeted", PATIENCE)

    def inject(self, count: int) -> None:
        """Begin to send so many."""
        self._accepted.extend(self._pool.submit(self._inject, uuid4().hex) for _ in range(count))

    def until_accepted(self) -> None:
        """Until all that it has begun to send is accepted."""
        wait(self._accepted)

    def statuses(self) -> Counter[str]:
        """The states of all threads, once all have ended or time is over."""
        threads = [accepted.result() for accepted in self._accepted]
        limit = time.monotonic() + PATIENCE
        while True:
            found = Counter(self._pool.map(self.status, threads))
            if not found["active"] or time.monotonic() > limit:
                return found
            time.sleep(_PAUSE)

    def status(self, thread: str) -> str:
        """The state of one thread."""
        return str(self.get(f"/threads/{thread}")["status"])

    def get(self, path: str) -> Any:
        """The answer to a GET, asked for until there is one."""
        return self._patiently("GET", path).json()

    def post(self, path: str) -> Any:
        """The answer to a POST, sent until there is one."""
        return self._patiently("POST", path).json()

    def _inject(self, key: str) -> str:
        body = {"to": "greeter", "payload": {"name": key}}
        answer = self._patiently("POST", "/inject", json=body, headers={"Idempotency-Key": key})
        return str(answer.json()["threadId"])

    def _patiently(self, method: str, path: str, **request: Any) -> httpx.Response:
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.request(method, path, **request)
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return answer.raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > limit:
                    raise
            if time.monotonic() > limit:
                raise TimeoutError(f"{method} {path} was not answered within {PATIENCE:g} s")
            time.sleep(_PAUSE)
