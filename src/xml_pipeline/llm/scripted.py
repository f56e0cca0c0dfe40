"""A provider that needs no key and always answers the same: for demos and tests."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from xml_pipeline.llm.errors import ProviderRefused
from xml_pipeline.llm.model import Answer, ChatMessage, CompletionRequest
from xml_pipeline.llm.tokens import Tokens

# Every call that was answered is appended to the file that this names: the ground truth of fault tests.
LOG_VARIABLE = "ORGANISM_LLM_LOG"

_TOKEN = re.compile(r"\w{1,4}|[^\w\s]")
_PIECE = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")
_GREETING = re.compile(r"\s*(?:please\s+)?greet\s+(?P<name>[^.!?\n]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """What a script answers; the tokens are counted unless given, `tokens` with all kinds."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: Tokens | None = None


Script = Callable[[CompletionRequest], "str | ScriptedReply | Awaitable[str | ScriptedReply]"]


def default_script(request: CompletionRequest) -> str:
    """Greet whoever is to be greeted; else say the last message again."""
    last = request.messages[-1].content.strip()
    greeting = _GREETING.match(last)
    return f"Hello, {greeting['name'].strip()}! It is a pleasure to meet you." if greeting else f"You said: {last}"


def load_script(name: str | None) -> Script:
    """The function that `module.function` names; the default one for None. Raises ValueError where there is none."""
    if name is None:
        return default_script
    module, _, function = name.rpartition(".")
    if not module:
        raise ValueError(f"llm.script must be module.function, not {name!r}")
    script = getattr(importlib.import_module(module), function, None)
    if script is None:
        raise ValueError(f"llm.script: {module} has no function {function}")
    return cast(Script, script)


def count_tokens(text: str) -> int:
    """Tokens of `text` by a simple rule: every four letters of a word, and each mark."""
    return sum(1 for _ in _TOKEN.finditer(text))


class ScriptedProvider:
    """Answers by a script, after `latency` seconds."""

    name = "scripted"

    def __init__(self, script: Script = default_script, *, latency: float = 0.0) -> None:
        self._script = script
        self._latency = latency
        self._log = os.environ.get(LOG_VARIABLE)

    async def complete(self, request: CompletionRequest) -> Answer:
        """Answer by the script, at most `max_tokens` long. A script that fails is ProviderRefused."""
        await asyncio.sleep(self._latency)
        answer = _answer(request, await self._reply(request))
        if self._log:
            await asyncio.to_thread(_append, Path(self._log), _line(request, answer))
        if request.on_text is not None:
            for piece in _PIECE.findall(answer.text):
                request.on_text(piece)
        return answer

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _reply(self, request: CompletionRequest) -> ScriptedReply:
        try:
            said = self._script(request)
            reply = await said if inspect.isawaitable(said) else said
        except Exception as error:  # a script is the user's, and may raise anything
            raise ProviderRefused(f"the script failed: {error!r}") from error
        return ScriptedReply(reply) if isinstance(reply, str) else reply


def _answer(request: CompletionRequest, reply: ScriptedReply) -> Answer:
    text = _truncated(reply.text, request.max_tokens)
    prompt = _prompt_tokens(request.messages) if reply.prompt_tokens is None else reply.prompt_tokens
    completion = count_tokens(text) if reply.completion_tokens is None else reply.completion_tokens
    return Answer(text, request.model, reply.tokens or Tokens(prompt, completion))


def _prompt_tokens(messages: tuple[ChatMessage, ...]) -> int:
    return 3 + sum(4 + count_tokens(message.content) for message in messages)


def _truncated(text: str, max_tokens: int) -> str:
    for number, token in enumerate(_TOKEN.finditer(text)):
        if number == max_tokens:
            return text[: token.start()].rstrip()
    return text


def _line(request: CompletionRequest, answer: Answer) -> bytes:
    return (
        json.dumps(
            {
                "call_id": str(request.call_id),
                "agent": request.agent,
                "model": answer.model,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
            }
        ).encode()
        + b"\n"
    )


def _append(path: Path, line: bytes) -> None:
    """One write, so that lines of many processes do not mix; on disk before the answer is out."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
