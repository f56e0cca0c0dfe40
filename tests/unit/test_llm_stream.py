"""Streamed answers: the same as buffered ones, and broken ones are no answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.stub_llm import Step, StubLlm, piece, streamed, stub_llm
from xml_pipeline.llm import openai
from xml_pipeline.llm.chat_answer import StreamedAnswer, read_answer
from xml_pipeline.llm.errors import MalformedAnswer, ProviderError, ProviderRefused, ProviderUnavailable
from xml_pipeline.llm.model import Answer, ChatMessage, CompletionRequest
from xml_pipeline.llm.openai import OpenAiProvider
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import LlmConfig

USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
USED = Tokens(120, 30, cache_read_tokens=64, reasoning_tokens=20)
GOOD = (piece(""), piece("Good "), piece("day"), piece(finish="stop"), {"choices": [], "usage": USAGE})


def question(on_text: Callable[[str], None] | None = None) -> CompletionRequest:
    return CompletionRequest(UUID(int=7), "a", "some-model", (ChatMessage("user", "Hi"),), 50, 10.0, on_text=on_text)


async def ask(
    stub: StubLlm, on_text: Callable[[str], None] | None = None, *, timeout: float = 10.0, **options: object
) -> Answer:
    provider = OpenAiProvider(LlmConfig(provider="openai", base_url=stub.url, options={"stream": True, **options}))
    try:
        async with asyncio.timeout(timeout):
            return await provider.complete(question(on_text))
    finally:
        await provider.aclose()


async def test_streamed_and_buffered_are_the_same_answer() -> None:
    whole = {"model": "served-model", "choices": [{"message": {"content": "Good day"}}], "usage": USAGE}
    async with stub_llm([streamed(*GOOD), Step(body=whole)]) as stub:
        one, other = await ask(stub), await ask(stub, stream=False)
    assert one == other == Answer("Good day", "served-model", USED)
    (_, first), (_, second) = stub.requests
    assert (first["stream"], first["stream_options"]) == (True, {"include_usage": True})
    assert not {"stream", "stream_options"} & set(second)


_COUNT = st.integers(0, 10**6)
_DETAILS = st.none() | st.fixed_dictionaries(
    {}, optional={"cached_tokens": _COUNT, "audio_tokens": _COUNT, "reasoning_tokens": _COUNT}
)
_USAGES = st.none() | st.fixed_dictionaries(
    {"prompt_tokens": _COUNT, "completion_tokens": _COUNT},
    optional={
        "total_tokens": _COUNT,
        "prompt_tokens_details": _DETAILS,
        "completion_tokens_details": _DETAILS,
        "cache_read_input_tokens": _COUNT,
    },
)


@given(st.lists(st.text(min_size=1, max_size=20), max_size=6), _USAGES, st.integers(1, 40))
def test_whatever_is_said_and_used_and_however_it_is_cut(texts: list[str], usage: object, size: int) -> None:
    events = [*(piece(text) for text in texts), piece(finish="stop"), {"choices": [], "usage": usage}]
    body = streamed(*events).body
    assert isinstance(body, bytes)
    heard: list[str] = []
    stream = StreamedAnswer(question(heard.append))
    for start in range(0, len(body), size):
        stream.feed(body[start : start + size])
    whole = {"model": "served-model", "choices": [{"message": {"content": "".join(texts)}}], "usage": usage}
    assert stream.finish() == read_answer(question(), _json(whole))
    assert heard == texts


def _json(value: object) -> bytes:
    event = streamed(value, end=False).body
    assert isinstance(event, bytes)
    return event.removeprefix(b"data: ")


async def test_who_listens_gets_the_pieces() -> None:
    heard: list[str] = []
    async with stub_llm([streamed(*GOOD)]) as stub:
        await ask(stub, heard.append, stream=False)
    assert heard == ["Good ", "day"]
    assert stub.requests[0][1]["stream"] is True


async def test_an_endpoint_that_does_not_stream_is_understood() -> None:
    heard: list[str] = []
    async with stub_llm([Step(body={"choices": [{"message": {"content": "Hi"}}], "usage": USAGE})]) as stub:
        assert await ask(stub, heard.append) == Answer("Hi", "some-model", USED)
    assert heard == ["Hi"]


async def test_an_endpoint_need_not_be_asked_for_the_usage() -> None:
    async with stub_llm([streamed(*GOOD[:-1])]) as stub:
        answer = await ask(stub, stream_usage=False)
    assert "stream_options" not in stub.requests[0][1]
    assert answer == Answer("Good day", "served-model", Tokens(34, 24), estimated=True)


@pytest.mark.parametrize(
    "step",
    [
        streamed(*GOOD, b": a comment\n\n", b"event: ping\ndata: {}\n\n"),
        streamed(*(b"data:" + _json(event).replace(b"\n\n", b"\r\n\r\n") for event in GOOD)),
        streamed(*GOOD[:-1], {"choices": [], "usage": USAGE}, end=False),
        streamed(piece("Good "), piece("day", usage={"prompt_tokens": 1, "completion_tokens": 1}), *GOOD[-2:]),
        streamed(piece("Good day", "stop", usage=USAGE)),
        streamed(*GOOD, {"model": "x", "choices": None, "usage": None}),
        streamed(*GOOD, missing=100),
        streamed(*GOOD, {"choices": [{"index": 1, "delta": {"content": "another"}, "finish_reason": None}]}),
    ],
    ids=[
        "comments",
        "crlf",
        "no done",
        "running sums",
        "at once",
        "no choices",
        "broken after its end",
        "second choice",
    ],
)
async def test_streams_differ(step: Step) -> None:
    async with stub_llm([step]) as stub:
        assert await ask(stub) == Answer("Good day", "served-model", USED)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (streamed(*GOOD[:3], end=False), "ended before"),
        (streamed(end=False), "ended before"),
        (streamed(*GOOD[:3], end=False, missing=100), "broke"),
        (streamed(*GOOD, end=False, missing=100), "broke"),
        (streamed(*GOOD[:2], {"error": {"message": "overloaded"}}), "gave up"),
        (streamed(piece("x"), b"data: {\n\n"), "cannot be used"),
    ],
    ids=["cut", "empty", "cut in the middle", "cut at the end", "error", "no json"],
)
async def test_a_broken_stream_is_no_answer_and_is_not_repeated(step: Step, error: str) -> None:
    async with stub_llm([step]) as stub:
        with pytest.raises(ProviderError, match=error) as raised:
            await ask(stub)
    # It may have done the work: neither of those whose hold goes back.
    assert not isinstance(raised.value, (ProviderUnavailable, ProviderRefused))
    assert len(stub.requests) == 1


async def test_a_stream_that_is_refused_did_nothing() -> None:
    async with stub_llm([Step(422, body={"error": "stream_options"})]) as stub:
        with pytest.raises(ProviderRefused, match="422"):
            await ask(stub)


async def test_a_stream_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MOST_BYTES", 1000)
    async with stub_llm([streamed(*[piece("x")] * 100)]) as stub:
        with pytest.raises(MalformedAnswer, match="larger than 1000 bytes"):
            await ask(stub)


async def test_what_a_listener_raises_comes_out() -> None:
    def stop(text: str) -> None:
        raise ValueError(text)

    async with stub_llm([streamed(*GOOD)]) as stub:
        with pytest.raises(ValueError, match="Good"):
            await ask(stub, stop)
    assert len(stub.requests) == 1
