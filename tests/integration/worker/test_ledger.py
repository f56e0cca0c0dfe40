from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from tests.integration.worker.conftest import Connect
from tests.integration.worker.fake_router import PATIENCE, Scene, assignment, granted, running_worker
from xml_pipeline.envelope.model import Assignment, Outcome
from xml_pipeline.message_bus.messages import HoldReply, HoldRequest
from xml_pipeline.organism.model import Organism


@pytest.fixture
async def scene(connect: Connect, zoo: Organism) -> AsyncIterator[Scene]:
    async with running_worker(connect, zoo) as scene:
        yield scene


def asks(timeout: float = 30.0) -> Assignment:
    return assignment("asks", b"<asks.ask><text>Greet Dan</text></asks.ask>", timeout=timeout)


async def test_a_completion_is_held_and_settled_for_the_message_that_is_handled(scene: Scene) -> None:
    one = asks()
    turn = await scene.router.ask(one)
    assert turn.outcome is Outcome.OK, turn.reason
    [hold], [event] = scene.ledger.held, scene.ledger.settled
    assert hold.message_id == event.message_id == one.message_id
    assert hold.call_id == event.call_id
    assert event.completion_tokens > 0


async def test_a_hold_is_asked_for_again_with_the_same_call(scene: Scene) -> None:
    def second_time(request: HoldRequest) -> HoldReply | None:
        return granted(request) if len(scene.ledger.held) > 1 else None

    scene.ledger.decide = second_time
    turn = await scene.router.ask(asks())
    assert turn.outcome is Outcome.OK, turn.reason
    assert len({hold.call_id for hold in scene.ledger.held}) == 1
    assert len(scene.ledger.settled) == 1


async def test_a_hold_is_waited_for(scene: Scene) -> None:
    def third_time(request: HoldRequest) -> HoldReply:
        if len(scene.ledger.held) > 2:
            return granted(request)
        return HoldReply(call_id=request.call_id, state="wait")

    scene.ledger.decide = third_time
    turn = await scene.router.ask(asks())
    assert turn.outcome is Outcome.OK, turn.reason
    assert len(scene.ledger.held) == 3


async def test_a_denied_hold_is_an_error_in_the_handler(scene: Scene) -> None:
    scene.ledger.decide = lambda request: HoldReply(call_id=request.call_id, state="denied", reason="nothing left")
    turn = await scene.router.ask(asks())
    assert (turn.outcome, turn.reason) == (Outcome.ERROR, "BudgetExhausted: nothing left")
    assert not scene.ledger.settled


def _parks(request: HoldRequest) -> HoldReply:
    asked = request.prompt_bound + request.max_completion
    return HoldReply(call_id=request.call_id, state="denied", reason="nothing left", at_limit="park", asked=asked)


@pytest.mark.parametrize("way", ["alone", "together", "stubborn", "stubborn alone"])
async def test_a_parked_message_ends_its_handler_whatever_that_catches(scene: Scene, way: str) -> None:
    scene.ledger.decide = _parks
    turn = await scene.router.ask(assignment("insists", f"<insists.ask><text>{way}</text></insists.ask>".encode()))
    assert (turn.outcome, turn.reason, turn.outputs) == (Outcome.PARKED, "nothing left", ())
    [size] = {hold.prompt_bound + hold.max_completion for hold in scene.ledger.held}
    assert turn.asked == size
    assert not scene.ledger.settled


@pytest.mark.parametrize("at_limit", ["deny", "kill"])
async def test_what_is_not_parked_is_an_error_in_the_handler(scene: Scene, at_limit: Literal["deny", "kill"]) -> None:
    scene.ledger.decide = lambda request: _parks(request).model_copy(update={"at_limit": at_limit})
    turn = await scene.router.ask(assignment("insists", b"<insists.ask><text>alone</text></insists.ask>"))
    assert (turn.outcome, turn.asked) == (Outcome.OK, 0)
    assert b"BudgetExhausted" in (turn.outputs[0].payload or b"")


async def test_what_was_asked_for_in_vain_is_given_back(scene: Scene) -> None:
    scene.ledger.decide = lambda _: None
    turn = await scene.router.ask(asks(timeout=0.5))
    assert turn.outcome in (Outcome.TIMEOUT, Outcome.ERROR)
    async with asyncio.timeout(PATIENCE):
        while not scene.ledger.released:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert {one.call_id for one in scene.ledger.released} == {one.call_id for one in scene.ledger.held}


async def test_many_completions_at_once(scene: Scene) -> None:
    many = [asks() for _ in range(100)]
    await scene.router.send(*many)
    for one in many:
        assert (await scene.router.turn(one)).outcome is Outcome.OK
    assert len({event.call_id for event in scene.ledger.settled}) == 100
    assert {event.message_id for event in scene.ledger.settled} == {one.message_id for one in many}
