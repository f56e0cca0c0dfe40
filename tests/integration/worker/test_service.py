from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.worker.conftest import Connect
from tests.integration.worker.fake_router import PATIENCE, Scene, assignment, running_worker
from tests.integration.worker.test_handlers import ask, let_go, started
from tests.support.broker import Broker
from xml_pipeline.envelope.codec import encode_assignment
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.messages import ControlHint
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import Binding, Names, organism_topology
from xml_pipeline.organism.model import Organism
from xml_pipeline.worker.pool import ChildFailed
from xml_pipeline.worker.service import run_worker
from xml_pipeline.worker.settings import WorkerSettings


async def drained(scene: Scene, listener: str) -> None:
    """Everything of a listener was acked, as the broker shows when the worker is gone."""
    scene.stop.set()
    await scene.worker
    assert await scene.router.bus.depth(scene.router.names.agent(listener)) == 0


async def test_many_messages_each_have_one_turn(connect: Connect, zoo: Organism) -> None:
    async with running_worker(connect, zoo, processes=2) as scene:
        many = [ask("calm", f"{number}") for number in range(300)]
        await scene.router.send(*many)
        for one in many:
            assert (await scene.router.turn(one)).outcome is Outcome.OK
        await drained(scene, "calm")
        assert {len(turns) for turns in scene.router.turns.values()} == {1}


async def test_junk_on_an_agents_queue_is_dead_lettered(connect: Connect, zoo: Organism) -> None:
    async with running_worker(connect, zoo) as scene:
        names = scene.router.names
        await scene.router.bus.publish([Outgoing("", names.agent("calm"), b"junk")])
        assert (await scene.router.ask(ask("calm"))).outcome is Outcome.OK
        dead = await scene.router.bus.consume(names.dead, prefetch=10)
        async with asyncio.timeout(PATIENCE):
            assert [delivery.body for delivery in await dead.batch(10)] == [b"junk"]
        await dead.close()


async def test_a_stop_finishes_what_runs(connect: Connect, zoo: Organism, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running_worker(connect, zoo, grace=PATIENCE) as scene:
        running = ask("slow", str(log))
        await scene.router.send(running)
        await started(log, 1)
        scene.stop.set()
        let_go(log)
        await scene.worker
        assert (await scene.router.turn(running)).outcome is Outcome.OK
        assert await scene.router.bus.depth(scene.router.names.agent("slow")) == 0


async def test_a_stop_gives_back_what_takes_too_long(connect: Connect, zoo: Organism, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running_worker(connect, zoo, grace=0.2) as scene:
        await scene.router.send(ask("slow", str(log)))
        await started(log, 1)
        scene.stop.set()
        await scene.worker
        async with asyncio.timeout(PATIENCE):
            while await scene.router.bus.depth(scene.router.names.agent("slow")) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_stop_hint_ends_the_worker(connect: Connect, zoo: Organism) -> None:
    async with running_worker(connect, zoo) as scene:
        await scene.router.ask(ask("calm"))
        async with asyncio.timeout(PATIENCE):
            await scene.router.hint(ControlHint(kind="stop"))
            await scene.worker


async def test_a_kill_cancels_what_runs_of_the_thread(connect: Connect, zoo: Organism, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running_worker(connect, zoo) as scene:
        thread = uuid4()
        payload = f"<slow.ask><text>{log}</text></slow.ask>".encode()
        doomed, other = assignment("slow", payload, thread=thread), assignment("slow", payload)
        await scene.router.send(doomed, other)
        await started(log, 2)
        await scene.router.hint(ControlHint(kind="kill", thread_id=thread))
        turn = await scene.router.turn(doomed)
        assert (turn.outcome, turn.reason) == (Outcome.ERROR, "killed")
        let_go(log)
        assert (await scene.router.turn(other)).outcome is Outcome.OK


async def test_a_reload_runs_the_new_organism_and_drains_the_old(
    connect: Connect, zoo: Organism, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with running_worker(connect, zoo) as scene:
        old = ask("slow", str(log))
        await scene.router.send(old)
        [pid] = await started(log, 1)
        code = tmp_path / "zoo.py"
        code.write_text(code.read_text().replace("{payload.text}!", "{payload.text}?"))
        await scene.router.hint(ControlHint(kind="reload", config_version=2, text=zoo.text))
        async with asyncio.timeout(PATIENCE):
            while b"hello?" not in ((await scene.router.ask(ask("calm"))).outputs[0].payload or b""):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        let_go(log)
        assert (await scene.router.turn(old)).outcome is Outcome.OK
        assert await started(log, 1) == [pid]


async def test_a_reload_that_cannot_be_changes_nothing(connect: Connect, zoo: Organism) -> None:
    async with running_worker(connect, zoo) as scene:
        await scene.router.hint(ControlHint(kind="reload", config_version=2, text="organism: nonsense"))
        for _ in range(20):
            assert (await scene.router.ask(ask("calm"))).outcome is Outcome.OK


async def test_a_newer_version_in_an_assignment_reloads_the_file(
    connect: Connect, zoo: Organism, tmp_path: Path
) -> None:
    async with running_worker(connect, zoo) as scene:
        await scene.router.ask(ask("calm"))
        code = tmp_path / "zoo.py"
        code.write_text(code.read_text().replace("{payload.text}!", "{payload.text}?"))
        payload = b"<calm.ask><text>hello</text></calm.ask>"
        async with asyncio.timeout(PATIENCE):
            while True:
                turn = await scene.router.ask(assignment("calm", payload, config=5))
                if b"hello?" in (turn.outputs[0].payload or b""):
                    break


async def test_heartbeats_name_listeners_and_capacity(connect: Connect, zoo: Organism) -> None:
    async with running_worker(connect, zoo) as scene:
        names = scene.router.names
        events = await scene.router.bus.subscribe([Binding(names.events, "", "heartbeat.agent-worker")])
        async with asyncio.timeout(PATIENCE):
            while not (beat := json.loads((await events.batch(1))[0].body))["listeners"]:
                pass
        assert (beat["service"], beat["instance"], beat["capacity"]) == ("agent-worker", "w1", 20)
        assert set(beat["listeners"]) == set(zoo.listeners)
        await events.close()


async def test_a_redelivery_of_what_runs_is_not_run_again(zoo: Organism, tmp_path: Path) -> None:
    log, broker = tmp_path / "log", MemoryBroker()
    async with running_worker(broker.connect, zoo) as scene:
        running = ask("slow", str(log))
        await scene.router.send(running)
        await started(log, 1)
        broker.drop()
        again = Outgoing("", scene.router.names.agent("slow"), encode_assignment(running))
        await scene.router.bus.publish([again])
        await scene.router.ask(ask("calm"))
        let_go(log)
        await scene.router.turn(running)
        await drained(scene, "slow")
        assert len(await started(log, 1)) == 1
        assert len(scene.router.turns[running.message_id]) == 1


async def test_a_turn_outlives_the_broker(zoo: Organism, tmp_path: Path) -> None:
    log, broker = tmp_path / "log", MemoryBroker()
    async with running_worker(broker.connect, zoo) as scene:
        running = ask("slow", str(log))
        await scene.router.send(running)
        await started(log, 1)
        broker.stop()
        let_go(log)
        # However much of its way the turn has gone by now: it has to arrive once the broker is back.
        await asyncio.sleep(0.3)
        broker.start()
        assert (await scene.router.turn(running)).outcome is Outcome.OK
        await drained(scene, "slow")
        assert len(await started(log, 1)) == 1


async def test_a_deleted_ingress_queue_is_made_again(zoo: Organism) -> None:
    broker = MemoryBroker()
    async with running_worker(broker.connect, zoo) as scene:
        await scene.router.ask(ask("calm"))
        broker.delete_queue(scene.router.names.ingress)
        assert (await scene.router.ask(ask("calm"))).outcome is Outcome.OK


async def test_a_turn_that_was_confirmed_is_sent_again_not_made_again(zoo: Organism) -> None:
    async with running_worker(MemoryBroker().connect, zoo) as scene:
        one = ask("calm")
        first = await scene.router.ask(one)
        await scene.router.send(one)
        assert await scene.router.turn(one, count=2) == first


async def test_a_worker_may_serve_some_listeners(memory: Connect, zoo: Organism) -> None:
    bus, stop = memory(), asyncio.Event()
    await bus.declare(organism_topology(zoo.name, zoo.listeners))
    settings = WorkerSettings(processes=1, listeners=frozenset({"calm"}))
    worker = asyncio.create_task(run_worker(bus, zoo, stop=stop, instance="w", settings=settings))
    beats = await bus.subscribe([Binding(Names(zoo.name).events, "", "#")])
    async with asyncio.timeout(PATIENCE):
        while not (listeners := json.loads((await beats.batch(1))[0].body)["listeners"]):
            pass
    assert listeners == ["calm"]
    stop.set()
    await worker


async def test_an_organism_that_cannot_be_loaded_is_told_at_the_start(
    memory: Connect, zoo: Organism, tmp_path: Path
) -> None:
    (tmp_path / "zoo.py").write_text("raise RuntimeError('broken module')")
    settings = WorkerSettings(processes=1)
    with pytest.raises(ChildFailed, match="broken module"):
        await run_worker(memory(), zoo, stop=asyncio.Event(), instance="w", settings=settings)


@pytest.mark.slow
async def test_a_turn_outlives_rabbitmq(own_broker: Broker, zoo: Organism, tmp_path: Path) -> None:
    log = tmp_path / "log"
    buses = [await connect_bus(own_broker.amqp_url, name=f"outlives-{number}") for number in range(2)]
    async with running_worker(iter(buses).__next__, zoo, grace=PATIENCE) as scene:
        running = [ask("slow", str(log)) for _ in range(10)]
        await scene.router.send(*running)
        await started(log, 10)
        await asyncio.to_thread(own_broker.node.stop)
        let_go(log)
        await asyncio.to_thread(own_broker.node.start)
        for one in running:
            assert (await scene.router.turn(one)).outcome is Outcome.OK
        assert (await scene.router.ask(ask("calm"))).outcome is Outcome.OK
        assert len(await started(log, 10)) == 10
