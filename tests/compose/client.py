"""A client that does not give up: it repeats each inject under its key until it is accepted."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx

from tests.compose.engine import PORT

PATIENCE = 120.0
_PAUSE = 0.25


class Client:
    """Injects from some threads at once, and what became of them."""

    def __init__(self, key: str, workers: int = 8) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{PORT}/api/v1", headers=headers, timeout=20)
        self._pool = ThreadPoolExecutor(workers)
        self._accepted: list[Future[str]] = []

    def inject(self, count: int) -> None:
        """Begin to send so many."""
        self._accepted.extend(self._pool.submit(self._inject, uuid4().hex) for _ in range(count))

    def statuses(self) -> Counter[str]:
        """The states of all threads, once all have ended or time is over."""
        threads = [accepted.result() for accepted in self._accepted]
        limit = time.monotonic() + PATIENCE
        while True:
            found = Counter(self.get(f"/threads/{thread}")["status"] for thread in threads)
            if not found["active"] or time.monotonic() > limit:
                return found
            time.sleep(_PAUSE)

    def get(self, path: str) -> Any:
        """The answer to a GET, asked for until there is one."""
        return self._patiently("GET", path).json()

    def close(self) -> None:
        """Send no more."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

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
