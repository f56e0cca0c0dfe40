from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.worker.conftest import Connect
from tests.integration.worker.fake_router import PATIENCE, FakeRouter, Scene, assignment, running_worker
from xml_pipeline.envelope.model import Assignment, Kind, Outcome, Reply
from xml_pipeline.organism.model import Organism


@pytest.fixture
async def scene(memory: Connect, zoo: Organism) -> AsyncIterator[Scene]:
    async with running_worker(memory, zoo, block_limit=1.0) as scene:
        yield scene


@pytest.fixture
def router(scene: Scene) -> FakeRouter:
    return scene.router


def ask(listener: str, text: str = "hello", *, timeout: float = 30.0, attempt: int = 1) -> Assignment:
    escaped = text.replace("<", "&lt;").replace(">", "&gt;")
    payload = f"<{listener}.ask><text>{escaped}</text></{listener}.ask>".encode()
    return assignment(listener, payload, timeout=timeout, attempt=attempt)


async def started(log: Path, times: int) -> list[int]:
    """The processes in which `slow` began, when it has begun so often."""
    async with asyncio.timeout(PATIENCE):
        while len(pids := _pids(log)) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return pids


def _pids(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def let_go(log: Path) -> None:
    log.with_name(log.name + ".go").touch()


async def test_a_response_is_written_as_the_responders(router: FakeRouter) -> None:
    turn = await router.ask(ask("calm"))
    assert turn.outcome is Outcome.OK
    [output] = turn.outputs
    assert (output.kind, output.to, output.payload) == (
        Kind.RESPONSE,
        None,
        b"<calm.told><text>hello!</text></calm.told>",
    )


async def test_several_outputs_keep_their_order(router: FakeRouter) -> None:
    turn = await router.ask(ask("calm", "both"))
    assert [(output.kind, output.to) for output in turn.outputs] == [(Kind.REQUEST, "other"), (Kind.RESPONSE, None)]
    assert turn.outputs[0].payload == b"<other.ask><text>x</text></other.ask>"


async def test_raw_xml_is_made_canonical(router: FakeRouter) -> None:
    turn = await router.ask(ask("calm", "<other.ask ><text>z</text><!-- no --></other.ask>"))
    assert turn.outputs[0].payload == b"<other.ask><text>z</text></other.ask>"


@pytest.mark.parametrize("text", ["<other.ask>", "<!DOCTYPE a><a/>", "<a xmlns='urn:x'/>", "control"])
async def test_xml_that_cannot_be_is_told_as_malformed(router: FakeRouter, text: str) -> None:
    turn = await router.ask(ask("calm", text))
    assert turn.outcome is Outcome.OK
    assert turn.outputs[0].payload is None
    assert turn.outputs[0].malformed


async def test_an_error_of_a_handler_is_short_and_carried(router: FakeRouter) -> None:
    turn = await router.ask(ask("raises"))
    assert turn.outcome is Outcome.ERROR
    assert turn.reason is not None
    assert turn.reason.startswith("ValueError: bad \ufffd luckkk")
    assert len(turn.reason) <= 500


async def test_an_exit_is_an_error(router: FakeRouter) -> None:
    turn = await router.ask(ask("exits"))
    assert (turn.outcome, turn.reason) == (Outcome.ERROR, "HandlerExit: SystemExit(3)")


@pytest.mark.parametrize("what", ["text", "dict", "list", "class", "number", "nothing", "target", "nul"])
async def test_rubbish_is_an_error(router: FakeRouter, what: str) -> None:
    turn = await router.ask(ask("rubbish", what))
    assert turn.outcome is Outcome.ERROR
    assert (turn.reason or "").startswith("Rubbish")


async def test_a_payload_of_another_configuration_is_an_error(router: FakeRouter) -> None:
    turn = await router.ask(assignment("calm", b"<calm.unknown></calm.unknown>"))
    assert turn.outcome is Outcome.ERROR


async def test_what_a_handler_prints_disturbs_nobody(router: FakeRouter) -> None:
    assert (await router.ask(ask("prints"))).outcome is Outcome.OK
    assert (await router.ask(ask("calm"))).outcome is Outcome.OK


async def test_a_hanging_handler_times_out(router: FakeRouter) -> None:
    turn = await router.ask(ask("hangs", timeout=0.2))
    assert (turn.outcome, turn.reason) == (Outcome.TIMEOUT, "not done after 0.2 s")


async def test_a_handler_that_cannot_be_cancelled_times_out(router: FakeRouter, tmp_path: Path) -> None:
    log = tmp_path / "log"
    neighbour = ask("slow", str(log))
    await router.send(neighbour)
    [pid] = await started(log, 1)
    turn = await router.ask(ask("stubborn", timeout=0.2))
    assert turn.outcome is Outcome.TIMEOUT
    let_go(log)
    assert (await router.turn(neighbour)).outcome is Outcome.OK
    assert await started(log, 1) == [pid]
    assert (await router.ask(ask("calm"))).outcome is Outcome.OK


async def test_a_blocked_event_loop_is_the_fault_of_one(router: FakeRouter, tmp_path: Path) -> None:
    log = tmp_path / "log"
    neighbour, culprit = ask("slow", str(log)), ask("blocks")
    await router.send(neighbour)
    await started(log, 1)
    turn = await router.ask(culprit)
    assert turn.outcome is Outcome.TIMEOUT
    assert (turn.reason or "").startswith("blocked")
    let_go(log)
    again = await router.turn(neighbour)
    assert (again.outcome, again.attempt) == (Outcome.OK, 1)
    first, second = await started(log, 2)
    assert first != second


@pytest.mark.parametrize(
    ("listener", "how"),
    [("dies", "exit status 7"), ("dies_later", "exit status 8")],
)
async def test_a_death_is_the_fault_of_one(router: FakeRouter, tmp_path: Path, listener: str, how: str) -> None:
    log = tmp_path / "log"
    neighbours = [ask("slow", str(log)) for _ in range(3)]
    await router.send(*neighbours)
    await started(log, 3)
    turn = await router.ask(ask(listener))
    assert (turn.outcome, turn.reason) == (Outcome.ERROR, f"child-died: its process ended with {how}")
    let_go(log)
    for neighbour in neighbours:
        again = await router.turn(neighbour)
        assert (again.outcome, again.attempt) == (Outcome.OK, 1)
    assert (await router.ask(ask("calm"))).outcome is Outcome.OK


async def test_nobody_is_to_blame_for_a_kill_from_outside(router: FakeRouter, tmp_path: Path) -> None:
    log = tmp_path / "log"
    waiting = ask("slow", str(log))
    await router.send(waiting)
    [pid] = await started(log, 1)
    os.kill(pid, signal.SIGKILL)
    await started(log, 2)
    let_go(log)
    turn = await router.turn(waiting)
    assert (turn.outcome, turn.attempt) == (Outcome.OK, 1)


async def test_many_deaths_lose_nothing(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "log"
    culprits = [ask("dies") for _ in range(5)]
    calm = [ask("calm", f"{n}") for n in range(50)]
    waiting = ask("slow", str(log))
    await scene.router.send(waiting, *calm, *culprits)
    for culprit in culprits:
        assert (await scene.router.turn(culprit)).outcome is Outcome.ERROR
    for one in calm:
        assert (await scene.router.turn(one)).outcome is Outcome.OK
    let_go(log)
    assert (await scene.router.turn(waiting)).outcome is Outcome.OK


async def test_metadata_tells_all_but_the_ids(router: FakeRouter) -> None:
    thread = uuid4()
    replies = (
        Reply("other", Kind.RESPONSE, b"<other.told><text>one</text></other.told>"),
        Reply("other", Kind.RESPONSE, b"<other.told><text>two</text></other.told>"),
    )
    payload = b"<other.told><text>three</text></other.told>"
    known = []
    for attempt in (1, 2):
        one = assignment(
            "looks", payload, kind=Kind.RESPONSE, thread=thread, attempt=attempt, remaining=2, replies=replies
        )
        turn = await router.ask(one)
        assert turn.outputs[0].payload is not None, turn.reason
        known.append(turn.outputs[0].payload.decode().split("<text>")[1].split("</text>")[0].split("|"))
    first, second = known
    assert first[:5] == ["response", "api", "looks", "2", "1"]
    assert first[7:] == ["one", "two"]
    assert first[5] == second[5]
    assert first[6] != second[6]
    assert str(thread) not in "|".join(first)
