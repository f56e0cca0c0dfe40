"""What comes back from chat completions, as one JSON object or as a stream of events: the same answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from xml_pipeline.llm.errors import MalformedAnswer, ProviderError
from xml_pipeline.llm.model import Answer, CompletionRequest, completion_bound, prompt_bound
from xml_pipeline.llm.reported_usage import read_tokens
from xml_pipeline.llm.tokens import Tokens

_END = b"[DONE]"


class _Said(BaseModel):
    content: str | None = None
    # Endpoints that show what a model thinks call it one or the other.
    reasoning_content: str | None = None
    reasoning: Any = None

    @property
    def thought(self) -> str:
        return self.reasoning_content or (self.reasoning if isinstance(self.reasoning, str) else "")


class _Choice(BaseModel):
    message: _Said


class _Body(BaseModel):
    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


class _Delta(BaseModel):
    index: int = 0
    delta: _Said | None = None
    finish_reason: str | None = None


class _Chunk(BaseModel):
    model: str | None = None
    choices: list[_Delta] | None = None
    usage: Any = None
    error: Any = None


def read_answer(request: CompletionRequest, body: bytes) -> Answer:
    """The answer in a JSON object. Raises MalformedAnswer."""
    try:
        parsed = _Body.model_validate_json(body)
    except ValidationError as error:
        raise _malformed(error) from error
    said = parsed.choices[0].message
    return _answer(request, parsed.model, said.content or "", said.thought, read_tokens(parsed.usage))


class StreamedAnswer:
    """An answer that comes in server-sent events. Each piece of text goes to the request's `on_text` as it arrives."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._lines = _Lines()
        self._data: list[bytes] = []
        self._model: str | None = None
        self._text: list[str] = []
        self._thought: list[str] = []
        self._tokens: Tokens | None = None
        self._ended = False
        self._done = False

    def feed(self, part: bytes) -> bool:
        """Take bytes of the body, cut anywhere; whether nothing more will come that counts.

        Raises MalformedAnswer, or ProviderError where the provider gives up.
        """
        for line in self._lines.feed(part):
            self._take_line(line)
        return self._done

    def finish(self) -> Answer:
        """The answer, at the end of the body. Raises ProviderError where it ended before the answer did."""
        for line in (self._lines.rest(), b""):
            self._take_line(line)
        if not self._ended:
            raise ProviderError("the stream ended before the answer did")
        return _answer(self._request, self._model, "".join(self._text), "".join(self._thought), self._tokens)

    def _take_line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._done:
            return
        if data.strip() == _END:
            self._ended = self._done = True
            return
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError as error:
            raise _malformed(error) from error
        if chunk.error is not None:
            raise ProviderError("the provider gave up in the middle of the answer")
        self._model = self._model or chunk.model
        # Some report the sums so far with every chunk: the last ones count.
        self._tokens = read_tokens(chunk.usage) or self._tokens
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._take_choice(choice)

    def _take_choice(self, choice: _Delta) -> None:
        self._ended = self._ended or choice.finish_reason is not None
        if choice.delta is None:
            return
        self._thought.append(choice.delta.thought)
        if text := choice.delta.content:
            self._text.append(text)
            if self._request.on_text is not None:
                self._request.on_text(text)


class _Lines:
    """Lines out of bytes that are cut anywhere."""

    def __init__(self) -> None:
        self._open = bytearray()

    def feed(self, part: bytes) -> list[bytes]:
        first, *more = part.split(b"\n")
        self._open += first
        lines = []
        for following in more:
            lines.append(self.rest())
            self._open += following
        return lines

    def rest(self) -> bytes:
        line = bytes(self._open).removesuffix(b"\r")
        self._open.clear()
        return line


def _answer(request: CompletionRequest, model: str | None, text: str, thought: str, tokens: Tokens | None) -> Answer:
    """Without counts it is the most that the call can have used, as far as it can be seen."""
    most = Tokens(prompt_bound(request.messages), min(completion_bound(thought + text), request.max_tokens))
    return Answer(text, model or request.model, tokens or most, estimated=tokens is None)


def _malformed(error: ValidationError) -> MalformedAnswer:
    places = ", ".join(".".join(map(str, fault["loc"])) or "body" for fault in error.errors())
    return MalformedAnswer(f"the answer cannot be used, see: {places}")
