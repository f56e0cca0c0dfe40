"""Any endpoint that speaks OpenAI's chat completions, over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import stamina

from xml_pipeline.llm.chat_answer import StreamedAnswer, read_answer
from xml_pipeline.llm.errors import (
    MalformedAnswer,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from xml_pipeline.llm.model import Answer, CompletionRequest
from xml_pipeline.organism.model import LlmConfig

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_ATTEMPTS = 4
_LONGEST_WAIT = 1.0
_CONNECT_TIMEOUT = 5.0
# Far more than a completion has; an endpoint that never ends must not fill the memory.
MOST_BYTES = 16 * 1024 * 1024
_TOO_MANY = 429
_SERVER_ERROR = 500
_STREAM = "text/event-stream"


class _TryAgain(ProviderUnavailable):
    """The provider took no work; `wait` is what it asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class OpenAiProvider:
    """Calls `base_url`/chat/completions with the key that the environment variable `api_key_env` holds.

    Tries again on 429 (waiting as Retry-After says), on 5xx, and when no connection is made, at most four times and
    never beyond the call's time. `options`: `provider_name` (in ledger and price table), `headers`, `limit_field`, the
    field that carries the most tokens of the completion, where the endpoint does not know the usual one, `stream` to
    have every answer streamed, and `stream_usage`, false for an endpoint that refuses to be asked for a stream's usage.
    """

    def __init__(self, config: LlmConfig) -> None:
        self.name = str(config.options.get("provider_name", config.provider))
        self._key = os.environ.get(config.api_key_env)
        self._headers = _headers(config.options.get("headers", {}))
        base_url = (config.base_url or DEFAULT_BASE_URL).rstrip("/")
        self._url = f"{base_url}/chat/completions"
        self._limit_field = str(config.options.get("limit_field", _usual_limit_field(base_url)))
        self._stream = config.options.get("stream") is True
        self._stream_usage = config.options.get("stream_usage") is not False
        self._client = httpx.AsyncClient(follow_redirects=False)

    async def complete(self, request: CompletionRequest) -> Answer:
        """Answer, with retries; see `Provider.complete` for what it raises."""
        ends = time.monotonic() + request.timeout
        async for attempt in stamina.retry_context(
            on=_again_until(ends), attempts=_ATTEMPTS, timeout=None, wait_max=_LONGEST_WAIT, wait_jitter=0.2
        ):
            with attempt:
                return await self._try(request, ends - time.monotonic())
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _try(self, request: CompletionRequest, remaining: float) -> Answer:
        remaining = max(0.001, remaining)
        timeout = httpx.Timeout(remaining, connect=min(_CONNECT_TIMEOUT, remaining * 0.9))
        try:
            async with self._client.stream(
                "POST", self._url, json=self._body(request), headers=self._request_headers(request), timeout=timeout
            ) as response:
                return await _read(request, response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _TryAgain(f"{self.name} is not reachable: {type(error).__name__}") from error
        except httpx.TimeoutException as error:
            raise ProviderTimeout(f"{self.name} did not answer in time") from error
        except httpx.HTTPError as error:
            raise ProviderError(f"the connection to {self.name} broke: {type(error).__name__}") from error

    def _body(self, request: CompletionRequest) -> dict[str, object]:
        body: dict[str, object] = {
            "model": request.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            self._limit_field: request.max_tokens,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if self._stream or request.on_text is not None:
            body["stream"] = True
            if self._stream_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def _request_headers(self, request: CompletionRequest) -> dict[str, str]:
        authorization = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {**self._headers, **authorization, "X-Client-Request-Id": str(request.call_id)}


def _usual_limit_field(base_url: str) -> str:
    """OpenAI itself refuses `max_tokens` for its newer models; everybody else knows it."""
    return "max_completion_tokens" if base_url == DEFAULT_BASE_URL else "max_tokens"


def _headers(option: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in option.items()} if isinstance(option, Mapping) else {}


def _again_until(ends: float) -> Callable[[Exception], bool | float]:
    """Try again what may be tried again, if the wait leaves time for it."""

    def decide(error: Exception) -> bool | float:
        if not isinstance(error, _TryAgain):
            return False
        if time.monotonic() + (_LONGEST_WAIT if error.wait is None else error.wait) >= ends:
            return False
        return True if error.wait is None else error.wait

    return decide


async def _read(request: CompletionRequest, response: httpx.Response) -> Answer:
    if response.is_success and response.headers.get("Content-Type", "").startswith(_STREAM):
        streamed = StreamedAnswer(request)
        async with aclosing(_parts(response)) as parts:
            async for part in parts:
                if streamed.feed(part):
                    break
        return streamed.finish()
    body = b"".join([part async for part in _parts(response)])
    _check_status(response)
    answer = read_answer(request, body)
    if request.on_text is not None and answer.text:
        request.on_text(answer.text)
    return answer


async def _parts(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body, decoded. Raises MalformedAnswer for one that is too large."""
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MOST_BYTES:
            raise MalformedAnswer(f"the answer is larger than {MOST_BYTES} bytes")
        yield part


def _check_status(response: httpx.Response) -> None:
    if response.status_code == _TOO_MANY or response.status_code >= _SERVER_ERROR:
        raise _TryAgain(f"HTTP {response.status_code}", _retry_after(response.headers.get("Retry-After")))
    if not response.is_success:
        raise ProviderRefused(f"HTTP {response.status_code}")


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; None where the header is missing or wrong."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        return _seconds_until(value)


def _seconds_until(date: str) -> float | None:
    try:
        return max(0.0, (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
