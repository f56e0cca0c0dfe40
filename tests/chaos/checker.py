"""Says what a run has lost, and what it has done twice: pure, over the facts that were read.

What an accepted request has to lead to is known beforehand: each kind takes the same steps each time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.facts import Booked, Facts, Request, Step, Thread
from tests.chaos.history import Operation, Told
from tests.chaos.load import Call

_RESEARCH = {"librarian": 4, "analyst": 4, "critic": 2, "writer": 1}

STEPS: Mapping[str, Counter[Step]] = {
    "planner": Counter(
        {
            ("api", "planner", "request"): 1,
            ("planner", "api", "response"): 1,
            **{("planner", name, "request"): count for name, count in _RESEARCH.items()},
            **{(name, "planner", "response"): count for name, count in _RESEARCH.items()},
        }
    ),
    "talker": Counter(
        {
            ("api", "talker", "request"): 1,
            ("talker", "echo", "request"): 1,
            ("echo", "talker", "response"): 1,
            ("talker", "api", "response"): 1,
        }
    ),
    "slow": Counter({("api", "slow", "request"): 1, ("slow", "api", "response"): 1}),
    "poison": Counter({("api", "poison", "request"): 1, ("poison", "api", "error"): 1}),
    "blocker": Counter({("api", "blocker", "request"): 1, ("blocker", "api", "error"): 1}),
}
"""What one request to a listener has to lead to."""

CALLS: Mapping[str, int] = {"planner": 12, "talker": 1, "slow": 1}
"""LLM calls of one request when nothing runs twice."""

ANSWERS: Mapping[str, str] = {"planner": "{topic} 2 8", "talker": "{topic}", "slow": "{topic}"}
"""What a response has to say: the topic of its request, and for a study its rounds and findings."""

FAILING = frozenset({"poison", "blocker"})


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a fault may cost beside time.

    `expired`: calls whose usage was lost with their worker, booked at their hold's size. `reruns`: attempts that a
    deadline had to find, since the broker lost what it held. `twice`: handlers that ran again, or calls made again.
    `errors`: answers 5xx.
    """

    expired: bool = False
    reruns: bool = False
    twice: bool = True
    errors: bool = True


@dataclass(slots=True)
class Verdict:
    """`lost` and `doubled` are findings for people; the run has passed where there are none, and nothing is off."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_happened: int = 0
    tokens_expected: int = 0
    tokens_booked: int = 0
    measured: int = 0
    expired: int = 0
    reruns: int = 0
    extra_calls: int = 0
    killed: int = 0
    expired_rows: list[str] = field(default_factory=list)  # each with what was booked and what was used

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.off)


def check(facts: Facts, allowed: Allowed) -> Verdict:
    """Hold what was promised against what is there."""
    verdict = Verdict()
    _check_operations(facts, verdict)
    _check_threads(facts, verdict)
    _check_tokens(facts, allowed, verdict)
    _check_letters(facts, verdict)
    _check_attempts(facts, allowed, verdict)
    verdict.off += [f"answered with {status}: {count} times" for status, count in _undue(facts, allowed).items()]
    verdict.off += [f"{name}: {count}" for name, count in facts.anomalies.items() if count]
    verdict.off += [f"{count} left in {queue}" for queue, count in facts.queued.items() if count]
    verdict.off += facts.crashes
    return verdict


# What clients were promised


def _undue(facts: Facts, allowed: Allowed) -> Mapping[int, int]:
    """No client of these deserves a 4xx; and what refuses nothing answers no 5xx."""
    statuses = Counter(status for operation in facts.operations for status in operation.statuses)
    most = 499 if allowed.errors else 599
    return {status: count for status, count in statuses.items() if 400 <= status <= most}


def _check_operations(facts: Facts, verdict: Verdict) -> None:
    by_topic: dict[str, list[Request]] = defaultdict(list)
    for request in facts.requests:
        by_topic[request.topic].append(request)
    for operation in facts.operations:
        if operation.what == "kill":
            _check_kill(operation, facts.threads, verdict)
        else:
            _check_inject(operation, by_topic.pop(operation.topic, []), facts.threads, verdict)
    verdict.off += [f"request {topic} that no client made" for topic in by_topic]


def _check_inject(
    operation: Operation, found: Sequence[Request], threads: Mapping[str, Thread], verdict: Verdict
) -> None:
    match operation.told:
        case Told.OK:
            verdict.accepted += 1
        case Told.UNKNOWN:
            verdict.unknown += 1
            verdict.unknown_happened += bool(found)
        case _:
            verdict.refused += 1
            verdict.off += [f"{operation.topic} was refused and is in the log"] if found else []
    if operation.told is Told.OK and not found:
        verdict.lost.append(f"{operation.topic} was accepted and is not in the log")
    if len(found) > 1:
        verdict.doubled.append(f"{operation.topic} is {len(found)} times in the log")
    for answer in operation.answers:
        if found and answer != (found[0].thread, found[0].id):
            verdict.doubled.append(f"{operation.topic} was answered with other ids than those in the log")
    for request in found:
        _check_replies(request, threads[request.thread].status, verdict)


def _check_replies(request: Request, status: str, verdict: Verdict) -> None:
    if request.replies > 1:
        verdict.doubled.append(f"{request.topic} was answered {request.replies} times")
    if request.replies == 0 and status != "killed":
        verdict.lost.append(f"{request.topic} was never answered")
    if request.told is not None and request.told != ANSWERS.get(request.to, "").format(topic=request.topic):
        verdict.lost.append(f"{request.topic} was answered with {request.told!r}")
    if (request.errors > 0) != (request.to in FAILING) and request.replies:
        verdict.lost.append(f"{request.topic} was answered with {request.errors} errors")


def _check_kill(operation: Operation, threads: Mapping[str, Thread], verdict: Verdict) -> None:
    thread = threads.get(operation.thread or "")
    if operation.told is Told.OK and (thread is None or thread.status != "killed"):
        verdict.lost.append(f"the kill of {operation.topic} was accepted and had no effect")


# What became of threads


def _check_threads(facts: Facts, verdict: Verdict) -> None:
    asked: dict[str, list[Request]] = defaultdict(list)
    for request in facts.requests:
        asked[request.thread].append(request)
    killers = {operation.thread for operation in facts.operations if operation.what == "kill"}
    for thread in facts.threads.values():
        verdict.killed += thread.status == "killed"
        if thread.status == "killed" and thread.id not in killers:
            verdict.lost.append(f"thread {thread.id} was killed, and nobody had asked for it")
        _check_steps(thread, asked[thread.id], verdict)
        _check_status(thread, asked[thread.id], verdict)


def _check_steps(thread: Thread, requests: Iterable[Request], verdict: Verdict) -> None:
    expected: Counter[Step] = Counter()
    for request in requests:
        expected.update(STEPS[request.to])
    missing, surplus = expected - thread.steps, thread.steps - expected
    if missing and thread.status != "killed":
        verdict.lost.append(f"thread {thread.id}: {_told(missing)} missing")
    if surplus:
        verdict.doubled.append(f"thread {thread.id}: {_told(surplus)} too many")


def _check_status(thread: Thread, requests: Sequence[Request], verdict: Verdict) -> None:
    expected = "error" if any(request.to in FAILING for request in requests) else "completed"
    if thread.status not in (expected, "killed"):
        verdict.lost.append(f"thread {thread.id} is {thread.status}, not {expected}")


def _told(steps: Counter[Step]) -> str:
    return ", ".join(f"{count} x {sender} -> {to} ({kind})" for (sender, to, kind), count in steps.items())


# What was booked


def _check_tokens(facts: Facts, allowed: Allowed, verdict: Verdict) -> None:
    rows = Counter(row.call for row in (*facts.measured, *facts.expired))
    verdict.doubled += [f"call {call} is booked {count} times" for call, count in rows.items() if count > 1]
    verdict.lost += [f"call {call} was answered and is not booked" for call in facts.truth if call not in rows]
    verdict.measured, verdict.expired = len(facts.measured), len(facts.expired)
    for row in facts.measured:
        truth = facts.truth.get(row.call)
        verdict.tokens_booked += _sum(row.tokens)
        verdict.tokens_expected += 0 if truth is None else _sum(truth)
        if truth != row.tokens:
            verdict.off.append(f"call {row.call} used {truth} and is booked as {row.tokens}")
    for row in facts.expired:
        truth = facts.truth.get(row.call)
        verdict.expired_rows.append(_told_expired(row, truth))
        if truth is not None:
            _check_expired(row, truth, allowed, verdict)


def _told_expired(row: Booked, truth: Call | None) -> str:
    used = "was never answered" if truth is None else f"used {_sum(truth)} tokens"
    why = "its worker was lost" if row.living else "its thread was killed"
    return f"call {row.call} {used} and is booked at its hold's {_sum(row.tokens)}: {why}"


def _check_expired(row: Booked, truth: Call, allowed: Allowed, verdict: Verdict) -> None:
    if row.living and not allowed.expired:
        verdict.lost.append(f"the usage of call {row.call} was lost, and is booked as expired")
    booked = row.tokens
    if booked.prompt_tokens < truth.prompt_tokens or booked.completion_tokens < truth.completion_tokens:
        verdict.lost.append(f"call {row.call} used {truth} and is booked below that, as {booked}")


def _sum(call: Call) -> int:
    return call.prompt_tokens + call.completion_tokens


# What went wrong on the way


def _check_letters(facts: Facts, verdict: Verdict) -> None:
    """A request that fails for good has its one dead letter, and nothing else has any."""
    wanted = Counter(
        request.topic
        for request in facts.requests
        if request.to in FAILING and facts.threads[request.thread].status != "killed"
    )
    found = Counter(str(letter.topic) for letter in facts.letters if letter.listener in FAILING)
    verdict.lost += [f"{topic} has no dead letter" for topic in wanted - found]
    verdict.doubled += [f"{topic} has too many dead letters" for topic in found - wanted]
    others = Counter(f"{one.code} of {one.listener}" for one in facts.letters if one.listener not in FAILING)
    verdict.off += [f"{count} dead letters: {what}" for what, count in others.items()]


def _check_attempts(facts: Facts, allowed: Allowed, verdict: Verdict) -> None:
    verdict.reruns = facts.idle_turns + facts.lost_attempts
    if facts.lost_attempts and not allowed.reruns:
        verdict.lost.append(f"{facts.lost_attempts} deliveries or turns were lost, and found by their deadlines")
    alive = [one for one in facts.requests if facts.threads[one.thread].status != "killed"]
    needed = sum(CALLS.get(request.to, 0) for request in alive)
    made = sum(row.living for row in (*facts.measured, *facts.expired))
    verdict.extra_calls = max(0, made - needed)
    if not allowed.twice and (verdict.extra_calls or facts.idle_turns):
        verdict.doubled.append(f"{facts.idle_turns} handlers ran again, {verdict.extra_calls} calls were made again")
