"""Waiting for an organism to run."""

from __future__ import annotations

import asyncio

import httpx

_INTERVAL = 0.1
_NOT_TOLD = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


async def wait_until_running(url: str) -> None:
    """Return when the organism at `url` says that it runs; it is the caller who gives up.

    Where that is told to nobody without a key, return when it is ready.
    """
    async with httpx.AsyncClient(base_url=url, timeout=5.0) as client:
        while not await _runs(client):  # noqa: ASYNC110 there is nothing to wait on but time
            await asyncio.sleep(_INTERVAL)


async def _runs(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/api/v1/organism")
        if answer.status_code in _NOT_TOLD:
            return (await client.get("/readyz")).is_success
        return answer.is_success and answer.json().get("status") == "running"
    except (httpx.HTTPError, ValueError):
        return False
