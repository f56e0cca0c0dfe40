"""The scripted provider: always the same answer, counted, and written down where fault tests look."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.llm.errors import ProviderRefused
from xml_pipeline.llm.model import Answer, ChatMessage, CompletionRequest, prompt_bound
from xml_pipeline.llm.providers import make_provider
from xml_pipeline.llm.scripted import LOG_VARIABLE, ScriptedProvider, ScriptedReply, count_tokens, load_script
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import LlmConfig

CALL = UUID(int=5)


def request(text: str, max_tokens: int = 100) -> CompletionRequest:
    return CompletionRequest(CALL, "greeter", "scripted-1", (ChatMessage("user", text),), max_tokens, 5.0)


async def test_greets_whoever_is_to_be_greeted() -> None:
    answer = await ScriptedProvider().complete(request("Greet Dan"))
    assert answer.text == "Hello, Dan! It is a pleasure to meet you."
    assert answer == await ScriptedProvider().complete(request("Greet Dan"))
    assert answer.completion_tokens == count_tokens(answer.text)


async def test_says_anything_else_again() -> None:
    assert (await ScriptedProvider().complete(request("two plus two"))).text == "You said: two plus two"


@given(st.text(max_size=300), st.integers(0, 40))
async def test_uses_no_more_than_is_held(text: str, max_tokens: int) -> None:
    answer = await ScriptedProvider().complete(request(text, max_tokens))
    assert answer.prompt_tokens <= prompt_bound(request(text).messages)
    assert answer.completion_tokens <= max_tokens


async def test_a_script_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_script.py").write_text("async def say(request):\n    return request.agent + ' speaks'\n")
    monkeypatch.syspath_prepend(tmp_path)
    provider = make_provider(LlmConfig(script="own_script.say"))
    assert (await provider.complete(request("x"))).text == "greeter speaks"
    await provider.aclose()


async def test_a_script_may_say_what_was_used() -> None:
    provider = ScriptedProvider(lambda _: ScriptedReply("x", prompt_tokens=7, completion_tokens=9))
    assert await provider.complete(request("y")) == Answer("x", "scripted-1", Tokens(7, 9))


async def test_a_script_may_say_of_which_kinds() -> None:
    used = Tokens(7, 9, cache_read_tokens=4, reasoning_tokens=0)
    provider = ScriptedProvider(lambda _: ScriptedReply("x", tokens=used))
    assert await provider.complete(request("y")) == Answer("x", "scripted-1", used)


@given(st.text(max_size=50))
async def test_pieces_are_the_whole(text: str) -> None:
    pieces: list[str] = []
    answer = await ScriptedProvider(lambda _: text).complete(replace(request("y"), on_text=pieces.append))
    assert "".join(pieces) == answer.text


async def test_a_script_that_fails_did_no_work() -> None:
    with pytest.raises(ProviderRefused, match="division by zero"):
        await ScriptedProvider(lambda _: str(1 / 0)).complete(request("y"))


def test_text_without_utf8_is_refused_before_anything_is_held() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        prompt_bound([ChatMessage("user", "\ud800")])


async def test_every_answer_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "truth.jsonl"
    monkeypatch.setenv(LOG_VARIABLE, str(log))
    provider = ScriptedProvider()
    answers = [await provider.complete(request("Greet Dan")) for _ in range(2)]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["call_id"], line["prompt_tokens"], line["completion_tokens"]) for line in lines] == [
        (str(CALL), answer.prompt_tokens, answer.completion_tokens) for answer in answers
    ]


@pytest.mark.parametrize("name", ["nodots", "json.nothing_there"])
def test_a_script_that_is_not_there_is_a_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"llm\.script"):
        load_script(name)


def test_an_unknown_provider_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="unknown LLM provider: nobody"):
        make_provider(LlmConfig(provider="nobody"))
