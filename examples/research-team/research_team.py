"""A research team. Agents keep nothing between messages: what they know is in the payload and in `metadata.replies`."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from xml_pipeline.llm import complete
from xml_pipeline.worker import HandlerMetadata, HandlerResponse, SystemError  # noqa: A004


class Study(BaseModel):
    """What is to be studied."""

    topic: str


class Question(BaseModel):
    """One question about a topic, for a researcher."""

    topic: str
    text: str


class Finding(BaseModel):
    """A researcher's answer."""

    topic: str
    question: str
    text: str


class Findings(BaseModel):
    """All that was found, for the critic; `round` counts from 1."""

    topic: str
    round: int
    notes: list[str]


class Verdict(BaseModel):
    """What the critic says: nothing is missing, or these questions."""

    topic: str
    missing: list[str] = []


class Brief(BaseModel):
    """What the writer is to write up."""

    topic: str
    notes: list[str]


class Article(BaseModel):
    """A paragraph about a topic."""

    topic: str
    text: str


class Report(BaseModel):
    """The answer to whoever asked for the study."""

    topic: str
    rounds: int
    findings: int
    text: str


RESEARCHERS = ("librarian", "analyst")
Answer = Finding | Verdict | Article
Sent = HandlerResponse | list[HandlerResponse] | None


async def plan(payload: Study | Answer | SystemError, metadata: HandlerMetadata) -> Sent:
    """Ask all questions at once, and go on when the last answer is there."""
    match payload:
        case Study(topic=topic):
            reply = await complete(f"Plan a study of {topic}")
            return _ask(topic, reply.text.splitlines())
        case Article(topic=topic, text=text):
            return _report(topic, text, _told(metadata, payload))
        case Verdict(topic=topic, missing=missing) if missing:
            return _ask(topic, missing)
        case Verdict(topic=topic):
            return HandlerResponse(Brief(topic=topic, notes=_notes(_told(metadata, payload))), to="writer")
        case SystemError(message=message) if metadata.from_id not in RESEARCHERS:
            raise RuntimeError(f"{metadata.from_id}: {message}")
        case _:
            return _join(metadata, _told(metadata, payload))


async def look_up(payload: Question, metadata: HandlerMetadata) -> HandlerResponse:
    """Say what is known."""
    return await _research(payload)


async def estimate(payload: Question, metadata: HandlerMetadata) -> HandlerResponse:
    """Say how much."""
    return await _research(payload)


async def criticise(payload: Findings, metadata: HandlerMetadata) -> HandlerResponse:
    """Accept, or send back."""
    reply = await complete(f"Round {payload.round} of a study of {payload.topic}:\n" + "\n".join(payload.notes))
    missing = [] if reply.text.startswith("accepted") else reply.text.splitlines()
    return HandlerResponse.respond(Verdict(topic=payload.topic, missing=missing))


async def write(payload: Brief, metadata: HandlerMetadata) -> HandlerResponse:
    """Write up."""
    reply = await complete(f"Write about {payload.topic}:\n" + "\n".join(payload.notes))
    return HandlerResponse.respond(Article(topic=payload.topic, text=reply.text))


async def _research(question: Question) -> HandlerResponse:
    reply = await complete(f"About {question.topic}: {question.text}")
    return HandlerResponse.respond(Finding(topic=question.topic, question=question.text, text=reply.text))


def _ask(topic: str, questions: Iterable[str]) -> list[HandlerResponse]:
    return [HandlerResponse(Question(topic=topic, text=text), to=_researcher(text)) for text in questions]


def _researcher(question: str) -> str:
    return "analyst" if question.startswith("How ") else "librarian"


def _join(metadata: HandlerMetadata, told: list[Answer]) -> HandlerResponse | None:
    """To the critic, when no answer is outstanding; one that came back as an error is a gap that the critic sees."""
    if metadata.remaining > 0:
        return None
    if not told:
        raise RuntimeError("none of the researchers answered")
    return HandlerResponse(Findings(topic=told[0].topic, round=_rounds(told) + 1, notes=_notes(told)), to="critic")


def _told(metadata: HandlerMetadata, last: object) -> list[Answer]:
    return [answer for answer in (*metadata.replies, last) if isinstance(answer, Answer)]


def _notes(told: list[Answer]) -> list[str]:
    """In the order of the questions, not of the answers: so that a study always reads the same."""
    return sorted(f"{answer.question} {answer.text}" for answer in told if isinstance(answer, Finding))


def _rounds(told: list[Answer]) -> int:
    return sum(isinstance(answer, Verdict) for answer in told)


def _report(topic: str, text: str, told: list[Answer]) -> HandlerResponse:
    return HandlerResponse.respond(Report(topic=topic, rounds=_rounds(told), findings=len(_notes(told)), text=text))
