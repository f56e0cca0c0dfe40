"""Any endpoint that speaks OpenAI's chat completions, over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import stamina
from pydantic import BaseModel, Field, ValidationError

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


class _TryAgain(ProviderUnavailable):
    """The provider took no work; `wait` is what it asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Body(BaseModel):
    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage


class OpenAiProvider:
    """Calls `base_url`/chat/completions with the key that the environment variable `api_key_env` holds.

    Tries again on 429 (waiting as Retry-After says), on 5xx, and when no connection is made, at most four times and
    never beyond the call's time. `options`: `provider_name` (in ledger and price table), `headers`, and `limit_field`,
    the field that carries the most tokens of the completion, where the endpoint does not know the usual one.
    """

    def __init__(self, config: LlmConfig) -> None:
        self.name = str(config.options.get("provider_name", config.provider))
        self._key = os.environ.get(config.api_key_env)
        self._headers = _headers(config.options.get("headers", {}))
        base_url = (config.base_url or DEFAULT_BASE_URL).rstrip("/")
        self._url = f"{base_url}/chat/completions"
        self._limit_field = str(config.options.get("limit_field", _usual_limit_field(base_url)))
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
        return _answer_of(request, await self._post(request, max(0.001, remaining)))

    async def _post(self, request: CompletionRequest, remaining: float) -> httpx.Response:
        timeout = httpx.Timeout(remaining, connect=min(_CONNECT_TIMEOUT, remaining * 0.9))
        try:
            async with self._client.stream(
                "POST", self._url, json=self._body(request), headers=self._request_headers(request), timeout=timeout
            ) as response:
                return await _read(response)
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


async def _read(response: httpx.Response) -> httpx.Response:
    """The response with its body, decoded. Raises MalformedAnswer for one that is too large."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MOST_BYTES:
            raise MalformedAnswer(f"the answer is larger than {MOST_BYTES} bytes")
    kept = {name: value for name, value in response.headers.items() if name == "retry-after"}
    return httpx.Response(response.status_code, headers=kept, content=bytes(body))


def _answer_of(request: CompletionRequest, response: httpx.Response) -> Answer:
    if response.status_code == _TOO_MANY or response.status_code >= _SERVER_ERROR:
        raise _TryAgain(f"HTTP {response.status_code}", _retry_after(response.headers.get("Retry-After")))
    if not response.is_success:
        raise ProviderRefused(f"HTTP {response.status_code}")
    try:
        body = _Body.model_validate_json(response.content)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, fault["loc"])) or "body" for fault in error.errors())
        raise MalformedAnswer(f"the answer cannot be used, see: {places}") from error
    text = body.choices[0].message.content or ""
    return Answer(text, body.model or request.model, body.usage.prompt_tokens, body.usage.completion_tokens)


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
