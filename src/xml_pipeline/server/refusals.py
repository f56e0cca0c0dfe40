"""The problems that both kinds of view answer with, in one wording."""

from __future__ import annotations

import random

from xml_pipeline.access.roles import Role
from xml_pipeline.errors import Fault
from xml_pipeline.server.problems import Problem

# Seconds; not the same for all who are sent away, so that they do not come back in one moment.
_COME_BACK = (1, 3)
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def unknown_target(name: str) -> Problem:
    """No listener has that name."""
    return Problem(400, "unknown-target", f"unknown target: {name!r} is not a listener of this organism")


def unknown_agent(name: str) -> Problem:
    """No listener has that name."""
    return Problem(404, "unknown-agent", f"unknown agent: {name!r}")


def unknown_thread(thread_id: str) -> Problem:
    """No thread has that id."""
    return Problem(404, "unknown-thread", f"unknown thread: {thread_id!r}")


def thread_killed(thread_id: str) -> Problem:
    """Nothing more enters a killed thread."""
    return Problem(409, "thread-killed", f"thread {thread_id} was killed")


def budget_exhausted(scope: str, name: str, max_tokens: int, spent: int, thread_id: str | None) -> Problem:
    """Nothing is left to be spent. `scope` is organism, tag or thread; `thread_id` None: the thread had not begun."""
    whose = {"organism": "the organism", "tag": f"tag {name}"}.get(scope, f"thread {name}")
    left = max(0, max_tokens - spent)
    members = {
        "scope": scope,
        "name": name,
        "maxTokens": max_tokens,
        "totalTokens": spent,
        "remaining": left,
        "threadId": thread_id,
    }
    text = f"the budget of {whose} is exhausted: {spent} of {max_tokens} tokens are used, {left} are left"
    return Problem(402, "budget-exhausted", text, members=members)


def tags_differ(thread_id: str) -> Problem:
    """A thread has the tags that it began with."""
    return Problem(409, "tags-differ", f"thread {thread_id} has other tags; leave them out to go on with it")


def unknown_letter(letter_id: str) -> Problem:
    """No dead letter has that id."""
    return Problem(404, "unknown-dead-letter", f"unknown dead letter: {letter_id!r}")


def not_redrivable(why: str) -> Problem:
    """There is nothing that could be handled once more."""
    return Problem(409, "not-redrivable", f"this dead letter cannot be redriven: {why}")


def already_redriven(message_id: object) -> Problem:
    """A dead letter is redriven once; if that failed, there is another."""
    text = f"it was redriven with another payload, as message {message_id}; if that failed, it has a letter of its own"
    return Problem(409, "already-redriven", text)


def redrive_pending() -> Problem:
    """A router is still to read it."""
    return Problem(409, "redrive-pending", "it is being redriven; delete it when a router has taken that")


def key_used_differently() -> Problem:
    """An Idempotency-Key stands for one request."""
    text = "this Idempotency-Key was used with another request"
    return Problem(422, "idempotency-key-reused", text, faults=[Fault("Idempotency-Key", text)])


def bad_thread_id() -> Problem:
    """Thread ids are UUIDs."""
    return Problem(422, "invalid-input", "threadId is not a UUID", faults=[Fault("threadId", "is not a UUID")])


def too_large(limit: int) -> Problem:
    """A body is bounded; `limit` in bytes."""
    return Problem(413, "too-large", f"the body is larger than {limit} bytes")


def too_slow(seconds: float) -> Problem:
    """A body has to arrive."""
    return Problem(408, "too-slow", f"the body did not arrive within {seconds:g} seconds")


def backlog_full(code: str, whose: str, limit: int) -> Problem:
    """So much is accepted and not done that nothing more is taken for now; `limit` in messages."""
    seconds = random.randint(*_COME_BACK)  # noqa: S311 - jitter is no secret
    text = f"the backlog of {whose} is at its limit of {limit} messages; try again in {seconds} seconds"
    return Problem(429, code, text, headers={"Retry-After": str(seconds)})


def key_missing() -> Problem:
    """Nobody gets in without a key."""
    text = "an API key is needed: send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"
    return Problem(401, "key-missing", text, headers=_CHALLENGE)


def key_unknown() -> Problem:
    """Unknown and revoked are not told apart: who has no key learns nothing."""
    return Problem(401, "key-unknown", "this API key is not known, or was revoked", headers=_CHALLENGE)


def role_too_small(role: Role, needed: Role) -> Problem:
    """A key may do less than was asked."""
    text = f"this needs a key with the role {needed}; the one that was sent has {role}"
    return Problem(403, "role-too-small", text, members={"role": role, "neededRole": needed})


def host_not_ours() -> Problem:
    """An open gateway answers to the names of its own machine alone."""
    text = "this gateway is open to its own machine: the Host must be localhost or a loopback address"
    return Problem(403, "host-not-allowed", f"{text}, or named in ORGANISM_ALLOWED_HOSTS")


def origin_not_ours() -> Problem:
    """An open gateway answers to no page of another site."""
    text = "this gateway is open to its own machine: the page's Origin must be of localhost or a loopback address"
    return Problem(403, "origin-not-allowed", f"{text}, or its host named in ORGANISM_ALLOWED_HOSTS")
