"""Posts to the webhook what the ledger has to tell, each at least once, under an id that receivers know doubles by."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx
import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import beat
from xml_pipeline.ledger.signing import Letter, WebhookSecretUnusable, letter, next_wait, read_secret
from xml_pipeline.organism.budgets import Webhook
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.webhooks import Delivery, claim_due, count_due, note_delivered, note_failed

log = structlog.get_logger(__name__)

# Seconds; a claim outlasts the longest attempt by far, so that no other service sends meanwhile.
_CONNECT_TIMEOUT = 5.0
TIMEOUT = 15.0
LEASE = 60.0
# How many are sent at once.
_BATCH = 5
_LONGEST_ERROR = 200


class WebhookSender:
    """Sends what is due to the webhook that is configured now; several services share the work."""

    def __init__(
        self,
        db: Database,
        health: Health,
        *,
        environment: Mapping[str, str] = os.environ,
        timeout: float = TIMEOUT,
        lease: float = LEASE,
    ) -> None:
        self._db = db
        self._environment = environment
        self._timeout = timeout
        self._lease = lease
        self._signs = True
        self._client: httpx.AsyncClient | None = None
        self._webhook: Webhook | None = None
        health.condition("webhook-secret", lambda: self._signs, needed=False)

    def configure(self, webhook: Webhook | None) -> None:
        """Send to this webhook from now on; to none: what is due stays due."""
        self._webhook = webhook
        self._signs = True

    async def send_due(self) -> int:
        """Send what is due, all of it; how many were delivered. Without a secret nothing is sent, and all stays due.

        Raises DatabaseUnavailable.
        """
        delivered, sent = 0, _BATCH
        while sent == _BATCH:
            beat()
            results = await self._send_some()
            delivered, sent = delivered + sum(results), len(results)
        return delivered

    async def _send_some(self) -> list[bool]:
        webhook = self._webhook
        key = await self._key(webhook.secret_env) if webhook else None
        if webhook is None or key is None:
            return []
        async with self._db.begin() as connection:
            due = await claim_due(connection, limit=_BATCH, lease=self._lease)
        failpoint("webhook.after-claim")
        return await asyncio.gather(*(self._send(webhook.url, key, one) for one in due))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _key(self, variable: str) -> bytes | None:
        try:
            key = read_secret(variable, self._environment)
        except WebhookSecretUnusable as unusable:
            await self._say_once(str(unusable))
            return None
        self._signs = True
        return key

    async def _say_once(self, reason: str) -> None:
        if not self._signs:
            return
        async with self._db.begin() as connection:
            due = await count_due(connection)
        log.error("webhook_not_signed", reason=f"{reason}, and restart; until then nothing is sent", due=due)
        self._signs = False

    async def _send(self, url: str, key: bytes, delivery: Delivery) -> bool:
        error = await self._post(url, letter(delivery.id, delivery.body, at=datetime.now(UTC), key=key))
        failpoint("webhook.after-post")
        try:
            await self._note(delivery, error)
        except DatabaseUnavailable as gone:
            log.warning("webhook_not_noted", delivery=str(delivery.id), error=str(gone))
        return error is None

    async def _note(self, delivery: Delivery, error: str | None) -> None:
        """Write down what became of it: until then it comes again once the claim is over."""
        told = log.bind(delivery=str(delivery.id), attempt=delivery.attempt)
        if error is None:
            async with self._db.begin() as connection:
                await note_delivered(connection, delivery)
            told.info("webhook_delivered")
            return
        wait = next_wait(delivery.attempt, delivery.age, random.random())  # noqa: S311 - a jitter is no secret
        async with self._db.begin() as connection:
            await note_failed(connection, delivery, error=error, wait=wait)
        if wait is None:
            told.error("webhook_given_up", error=error)
        else:
            told.warning("webhook_put_off", error=error, seconds=round(wait, 1))

    async def _post(self, url: str, news: Letter) -> str | None:
        """Post it; why it was not taken, or None. What the receiver answers is not read: it may be endless."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http().stream("POST", url, content=news.body, headers=news.headers) as answer,
            ):
                return None if answer.is_success else f"answered {answer.status_code}"
        except (TimeoutError, httpx.TimeoutException):
            return f"no answer within {self._timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return _why(error)

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            # What is signed is for this address alone: a redirect is not followed.
            timeout = httpx.Timeout(self._timeout, connect=min(_CONNECT_TIMEOUT, self._timeout))
            self._client = httpx.AsyncClient(follow_redirects=False, timeout=timeout)
        return self._client


def _why(error: Exception) -> str:
    """What went wrong, without the address: it may carry a token."""
    name = type(error).__name__
    told = f"{name}: {error}" if isinstance(error, httpx.ConnectError) else name
    return told[:_LONGEST_ERROR]
