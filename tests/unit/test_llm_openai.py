"""The OpenAI-compatible provider against a server that behaves and misbehaves."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest

from tests.unit.stub_llm import Step, StubLlm, good, stub_llm
from xml_pipeline.llm import openai
from xml_pipeline.llm.errors import (
    MalformedAnswer,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from xml_pipeline.llm.model import Answer, ChatMessage, CompletionRequest
from xml_pipeline.llm.openai import OpenAiProvider
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import LlmConfig


async def ask(stub: StubLlm, *, timeout: float = 10.0, temperature: float | None = None) -> Answer:
    provider = OpenAiProvider(LlmConfig(provider="openai", base_url=stub.url, api_key_env="STUB_KEY"))
    messages = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hi"))
    request = CompletionRequest(UUID(int=7), "greeter", "some-model", messages, 50, timeout, temperature)
    try:
        return await provider.complete(request)
    finally:
        await provider.aclose()


async def test_asks_and_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    async with stub_llm([good("Good day")]) as stub:
        assert await ask(stub, temperature=0.2) == Answer("Good day", "served-model", Tokens(12, 3))
    ((headers, body),) = stub.requests
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-client-request-id"] == str(UUID(int=7))
    assert body == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 50,
        "temperature": 0.2,
    }


async def test_the_limit_goes_where_the_endpoint_looks_for_it() -> None:
    async with stub_llm([good()]) as stub:
        config = LlmConfig(provider="openai", base_url=stub.url, options={"limit_field": "num_predict"})
        provider = OpenAiProvider(config)
        await provider.complete(CompletionRequest(UUID(int=7), "a", "m", (ChatMessage("user", "x"),), 9, 5.0))
        await provider.aclose()
    assert stub.requests[0][1]["num_predict"] == 9


async def test_waits_as_long_as_it_is_told() -> None:
    async with stub_llm([Step(429, headers={"Retry-After": "0.3"}), good()]) as stub:
        started = time.monotonic()
        assert (await ask(stub)).text == "hello"
        assert time.monotonic() - started >= 0.3


async def test_a_date_says_how_long_too() -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)
    async with stub_llm([Step(429, headers={"Retry-After": past}), good()]) as stub:
        assert (await ask(stub)).text == "hello"


async def test_gives_up_at_once_when_told_to_wait_longer_than_there_is_time() -> None:
    async with stub_llm([Step(429, headers={"Retry-After": "3600"})]) as stub:
        with pytest.raises(ProviderUnavailable, match="429"):
            await ask(stub)
    assert len(stub.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 529])
async def test_tries_again_when_the_server_fails(status: int) -> None:
    async with stub_llm([Step(status), Step(status), good()]) as stub:
        assert (await ask(stub)).text == "hello"
    assert len(stub.requests) == 3


async def test_a_server_that_goes_on_failing_is_unavailable() -> None:
    async with stub_llm([Step(503, headers={"Retry-After": "0"})]) as stub:
        with pytest.raises(ProviderUnavailable, match="503"):
            await ask(stub)
    assert len(stub.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 307])
async def test_a_refusal_is_not_repeated(status: int) -> None:
    async with stub_llm([Step(status, body={"error": "no"})]) as stub:
        with pytest.raises(ProviderRefused, match=str(status)):
            await ask(stub)
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b"\xff\xfe",
        [],
        {},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": [{"message": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
    ],
)
async def test_an_answer_that_cannot_be_used_is_not_repeated(body: object) -> None:
    async with stub_llm([Step(body=body)]) as stub:
        with pytest.raises(MalformedAnswer):
            await ask(stub)
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"usage": None},
        {"usage": []},
        {"usage": {"prompt_tokens": 1}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 2}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2**31}},
        {"usage": {"prompt_tokens": "1", "completion_tokens": True}},
    ],
)
@pytest.mark.parametrize(("text", "completion"), [("", 16), ("straße", 23), ("x" * 300, 50)])
async def test_an_answer_without_counts_is_the_most_that_it_can_be(
    usage: dict[str, object], text: str, completion: int
) -> None:
    async with stub_llm([Step(body={"choices": [{"message": {"content": text}}], **usage})]) as stub:
        answer = await ask(stub)
    # "Be brief." and "Hi" are 11 bytes, and 16 more for each of them and for the prompt.
    assert answer == Answer(text, "some-model", Tokens(59, completion), estimated=True)


async def test_thoughts_that_are_shown_are_estimated_too() -> None:
    message = {"content": "four", "reasoning_content": "two and two"}
    async with stub_llm([Step(body={"choices": [{"message": message}]})]) as stub:
        answer = await ask(stub)
    assert (answer.text, answer.completion_tokens) == ("four", 16 + 4 + 11)


async def test_no_answer_in_time_is_unknown_and_not_repeated() -> None:
    async with stub_llm([Step(hang=True)]) as stub:
        with pytest.raises(ProviderTimeout):
            await ask(stub, timeout=0.2)
    assert len(stub.requests) == 1


async def test_a_connection_that_breaks_after_the_question_is_unknown_and_not_repeated() -> None:
    async with stub_llm([Step(drop=True)]) as stub:
        with pytest.raises(ProviderError) as raised:
            await ask(stub)
    assert not isinstance(raised.value, (ProviderUnavailable, ProviderRefused))
    assert len(stub.requests) == 1


async def test_nobody_listening_is_unavailable() -> None:
    async with stub_llm([good()]) as stub:
        pass
    with pytest.raises(ProviderUnavailable, match="not reachable"):
        await ask(stub, timeout=1.5)


async def test_an_answer_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MOST_BYTES", 1000)
    async with stub_llm([Step(body=b" " * 100_000)]) as stub:
        with pytest.raises(MalformedAnswer, match="larger than 1000 bytes"):
            await ask(stub)
