"""Sends what is to be told of thresholds: at least once, the id telling receivers what came twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

import httpx
import structlog

from xml_pipeline.health.pulse import beat
from xml_pipeline.ledger.signing import headers_of, wait_after
from xml_pipeline.organism.budgets import Webhook
from xml_pipeline.storage import webhooks
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.webhooks import Delivery

log = structlog.get_logger(__name__)

# Of one answer, in seconds, and how long what was claimed is left to who claimed it.
_ANSWER = 10.0
_LEASE = 60.0
_AT_ONCE = 20


class WebhookSender:
    """One for a usage service; any number may be at it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._webhook: Webhook | None = None
        self._unsent = False

    def configure(self, webhook: Webhook | None) -> None:
        """Take over a new configuration."""
        self._webhook = webhook
        self._unsent = False

    async def step(self) -> None:
        """Send what is due. Raises DatabaseUnavailable."""
        webhook = self._webhook
        secret = None if webhook is None else os.environ.get(webhook.secret_env)
        if webhook is None or not secret:
            self._complain(webhook)
            return
        async with self._db.begin() as connection:
            due = await webhooks.claim_due(connection, limit=_AT_ONCE, lease=_LEASE)
        if due:
            async with httpx.AsyncClient(timeout=_ANSWER, follow_redirects=False, trust_env=False) as client:
                await asyncio.gather(*(self._deliver(client, webhook.url, secret, delivery) for delivery in due))

    async def _deliver(self, client: httpx.AsyncClient, url: str, secret: str, delivery: Delivery) -> None:
        error = await _send(client, url, secret, delivery)
        beat()
        async with self._db.begin() as connection:
            if error is None:
                await webhooks.note_delivered(connection, delivery)
                return
            wait = wait_after(delivery.attempt, delivery.age, random.random())  # noqa: S311 - spreads tries
            await webhooks.note_failed(connection, delivery, error=error, wait=wait)
        log.warning("webhook_failed", id=str(delivery.id), attempt=delivery.attempt, error=error, again_in=wait)

    def _complain(self, webhook: Webhook | None) -> None:
        """Unsigned is not sent: it waits for its secret. Said once."""
        if webhook is not None and not self._unsent:
            self._unsent = True
            log.error("webhook_without_secret", todo=f"set {webhook.secret_env} in the usage service's environment")


async def _send(client: httpx.AsyncClient, url: str, secret: str, delivery: Delivery) -> str | None:
    """What went wrong, None where the receiver has it."""
    body = json.dumps(delivery.body, separators=(",", ":")).encode()
    headers = headers_of(secret, delivery.id, int(time.time()), body)
    try:
        async with asyncio.timeout(_ANSWER), client.stream("POST", url, content=body, headers=headers) as answer:
            return None if answer.is_success else f"HTTP {answer.status_code}"
    except TimeoutError:
        return f"no answer within {_ANSWER:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
