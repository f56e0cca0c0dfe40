"""What every bus promises; each implementation inherits these tests and gives the `hub` fixture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.contract.bus_hub import PATIENCE, Hub, bodies, eventually, eventually_depth, receive
from xml_pipeline.errors import BrokerUnavailable, NotFound, Refused
from xml_pipeline.message_bus.limits import MAX_BODY_BYTES
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing, Published
from xml_pipeline.message_bus.topology import Binding, Exchange, Queue, Topology, organism_topology

CONFIRMED, UNROUTABLE = Published.CONFIRMED, Published.UNROUTABLE


class BusSuite:
    """Publishing, consuming and declaring, on a broker that is there."""

    @pytest.fixture
    async def bus(self, hub: Hub) -> Bus:
        bus = await hub.connect()
        await bus.declare(organism_topology(hub.names.organism, ["greeter"]))
        return bus

    @pytest.fixture
    def queue(self, hub: Hub) -> str:
        return hub.names.ingress

    @pytest.fixture
    async def consumer(self, bus: Bus, queue: str) -> AsyncIterator[Consumer]:
        consumer = await bus.consume(queue, prefetch=2000)
        yield consumer
        await consumer.close()

    async def test_a_message_arrives_as_it_was_sent(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        headers: dict[str, str | int] = {"message-id": "m-1", "attempt": 3, "text": "naïve ✓", "negative": -5}
        headers |= {"sent-ns": 2**62 + 1, "traceparent": f"00-{'4b' * 16}-{'0f' * 8}-01"}
        sent = Outgoing("", queue, b"\x00<a/>\xff", headers, correlation_id="call-1", reply_to="somewhere")
        assert await bus.publish([sent]) == [CONFIRMED]
        (got,) = await receive(consumer, 1)
        assert (got.exchange, got.routing_key, got.queue, got.body) == ("", queue, queue, sent.body)
        assert dict(got.headers) == headers
        assert (got.correlation_id, got.reply_to, got.redelivered) == ("call-1", "somewhere", False)

    async def test_an_empty_body_and_no_headers_arrive_too(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        assert await bus.publish([Outgoing("", queue, b"")]) == [CONFIRMED]
        (got,) = await receive(consumer, 1)
        assert (got.body, dict(got.headers), got.correlation_id, got.reply_to) == (b"", {}, None, None)

    async def test_nothing_to_publish_is_nothing_told(self, bus: Bus) -> None:
        assert await bus.publish([]) == []

    async def test_a_big_batch_is_confirmed_and_keeps_its_order(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        sent = [b"%d" % number for number in range(1000)]
        outcomes = await bus.publish([Outgoing("", queue, body) for body in sent], timeout=PATIENCE)
        assert outcomes == [CONFIRMED] * 1000
        assert bodies(await receive(consumer, 1000, ack=True)) == sent

    async def test_order_is_kept_from_batch_to_batch(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        sent = [b"%d" % number for number in range(200)]
        for start in range(0, 200, 10):
            await bus.publish([Outgoing("", queue, body) for body in sent[start : start + 10]])
        assert bodies(await receive(consumer, 200, ack=True)) == sent

    async def test_big_bodies_arrive_whole(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        sent = [bytes([number]) * (256 * 1024) for number in range(12)]
        outcomes = await bus.publish([Outgoing("", queue, body) for body in sent], timeout=PATIENCE)
        assert outcomes == [CONFIRMED] * 12
        assert bodies(await receive(consumer, 12, ack=True)) == sent

    async def test_many_publishers_at_once_hear_their_own_outcomes(
        self, bus: Bus, queue: str, consumer: Consumer
    ) -> None:
        def batch(publisher: int) -> list[Outgoing]:
            targets = [queue if (publisher + place) % 3 else "nowhere" for place in range(30)]
            return [Outgoing("", target, b"%d.%d" % (publisher, place)) for place, target in enumerate(targets)]

        batches = [batch(publisher) for publisher in range(20)]
        told = await asyncio.gather(*(bus.publish(one, timeout=PATIENCE) for one in batches))
        for sent, outcomes in zip(batches, told, strict=True):
            assert outcomes == [CONFIRMED if one.routing_key == queue else UNROUTABLE for one in sent]
        routed = [one.body for sent in batches for one in sent if one.routing_key == queue]
        assert sorted(bodies(await receive(consumer, len(routed)))) == sorted(routed)

    async def test_what_finds_no_queue_is_unroutable_among_confirmed(
        self, bus: Bus, queue: str, consumer: Consumer
    ) -> None:
        batch = [Outgoing("", queue, b"1"), Outgoing("", "nowhere", b"2"), Outgoing("", queue, b"3")]
        assert await bus.publish(batch) == [CONFIRMED, UNROUTABLE, CONFIRMED]
        assert bodies(await receive(consumer, 2)) == [b"1", b"3"]

    async def test_a_missing_exchange_is_unroutable_and_hurts_nobody(
        self, hub: Hub, bus: Bus, queue: str, consumer: Consumer
    ) -> None:
        missing = f"{hub.names.organism}.missing"
        batch = [Outgoing("", queue, b"1"), Outgoing(missing, "key", b"2"), Outgoing("é{}", "", b"3")]
        for _ in range(3):
            assert await bus.publish(batch) == [CONFIRMED, UNROUTABLE, UNROUTABLE]
        assert len(await receive(consumer, 3)) == 3

    async def test_what_no_broker_carries_is_refused_alone(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        wrong = [
            Outgoing("", queue, bytes(MAX_BODY_BYTES + 1)),
            Outgoing("", "é" * 200, b""),
            Outgoing("", queue, b"", {"number": 2**63}),
            Outgoing("", queue, b"", {"k" * 256: 1}),
            Outgoing("", queue, b"", {"much": "x" * 100_000}),
            Outgoing("", queue, b"", correlation_id="c" * 256),
        ]
        assert await bus.publish([*wrong, Outgoing("", queue, b"fine")]) == [Published.REFUSED] * 6 + [CONFIRMED]
        assert bodies(await receive(consumer, 1)) == [b"fine"]

    async def test_prefetch_bounds_what_is_held(self, bus: Bus, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=3)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(10)])
        held = await receive(consumer, 3)
        await eventually_depth(bus, queue, 7)
        await consumer.ack(held[:2])
        more = await receive(consumer, 2)
        assert bodies(held + more) == [b"0", b"1", b"2", b"3", b"4"]
        await eventually_depth(bus, queue, 5)

    async def test_a_batch_is_no_longer_than_asked(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(10)])
        first = await consumer.batch(4)
        assert 1 <= len(first) <= 4
        rest = await receive(consumer, 10 - len(first))
        assert bodies([*first, *rest]) == [b"%d" % number for number in range(10)]

    async def test_a_batch_that_is_cancelled_takes_nothing(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        for number in range(20):
            waiting = asyncio.create_task(consumer.batch(1))
            await asyncio.sleep(0)
            publishing = asyncio.create_task(bus.publish([Outgoing("", queue, b"%d" % number)]))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
            await publishing
            taken = [] if isinstance(outcome, BaseException) else list(outcome)
            taken += await receive(consumer, 1 - len(taken))
            assert bodies(taken) == [b"%d" % number]

    async def test_what_is_acked_is_gone(self, bus: Bus, hub: Hub, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(4)])
        await receive(consumer, 4, ack=True)
        await consumer.close()
        await bus.publish([Outgoing("", queue, b"next")])
        other = await (await hub.connect()).consume(queue, prefetch=10)
        assert bodies(await receive(other, 1)) == [b"next"]

    async def test_acks_out_of_order_ack_these_and_no_others(self, bus: Bus, hub: Hub, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=100)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(12)])
        held = await receive(consumer, 12)
        await consumer.ack([held[5], held[3]])
        await consumer.ack([held[0], held[1], held[7]])
        await consumer.ack([held[2], held[4], held[11]])
        await consumer.close()
        again = await receive(await bus.consume(queue, prefetch=100), 4)
        assert sorted(bodies(again), key=int) == [b"6", b"8", b"9", b"10"]
        assert all(one.redelivered for one in again)

    async def test_an_ack_said_twice_acks_once(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        await bus.publish([Outgoing("", queue, b"1"), Outgoing("", queue, b"2")])
        held = await receive(consumer, 2)
        await consumer.ack(held[:1])
        await consumer.ack(held[:1])
        await consumer.reject(held[:1], requeue=True)
        await consumer.ack(held)
        await bus.publish([Outgoing("", queue, b"3")])
        assert bodies(await receive(consumer, 1)) == [b"3"]
        assert consumer.healthy

    async def test_acks_of_another_subscription_are_ignored(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        await bus.publish([Outgoing("", queue, b"1")])
        (held,) = await receive(consumer, 1)
        await consumer.ack([replace(held, epoch=held.epoch - 1)])
        await consumer.close()
        (again,) = await receive(await bus.consume(queue, prefetch=1), 1)
        assert (again.body, again.redelivered) == (b"1", True)

    async def test_what_is_given_back_comes_again(self, bus: Bus, queue: str, consumer: Consumer) -> None:
        await bus.publish([Outgoing("", queue, b"1"), Outgoing("", queue, b"2")])
        await consumer.reject(await receive(consumer, 2), requeue=True)
        again = await receive(consumer, 2, ack=True)
        assert sorted(bodies(again)) == [b"1", b"2"]
        assert all(one.redelivered for one in again)

    async def test_what_is_rejected_is_dead_lettered_as_it_was(
        self, bus: Bus, hub: Hub, queue: str, consumer: Consumer
    ) -> None:
        await bus.publish([Outgoing("", queue, b"good"), Outgoing("", queue, b"bad", {"message-id": "m"})])
        good, bad = await receive(consumer, 2)
        await consumer.reject([bad], requeue=False)
        await consumer.ack([good])
        (dead,) = await receive(await bus.consume(hub.names.dead, prefetch=10), 1, ack=True)
        assert (dead.body, dead.routing_key, dead.exchange) == (b"bad", queue, hub.names.dead)
        assert dead.headers["message-id"] == "m"
        assert dead.headers["x-first-death-queue"] == queue
        assert dead.headers["x-first-death-reason"] == "rejected"

    async def test_a_closed_consumer_gives_back_what_it_held(self, bus: Bus, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(5)])
        held = await receive(consumer, 3)
        await consumer.ack(held[:1])
        await consumer.close()
        again = await receive(await bus.consume(queue, prefetch=10), 4)
        assert sorted(bodies(again)) == [b"1", b"2", b"3", b"4"]

    async def test_a_lost_connection_gives_back_what_it_held(self, hub: Hub, bus: Bus, queue: str) -> None:
        other = await hub.connect()
        lost = await other.consume(queue, prefetch=10)
        await bus.publish([Outgoing("", queue, b"1"), Outgoing("", queue, b"2")])
        await receive(lost, 2)
        await other.close()
        again = await receive(await bus.consume(queue, prefetch=10), 2)
        assert sorted(bodies(again)) == [b"1", b"2"]
        assert all(one.redelivered for one in again)

    async def test_two_consumers_share_a_queue(self, hub: Hub, bus: Bus, queue: str) -> None:
        one = await bus.consume(queue, prefetch=10)
        two = await (await hub.connect()).consume(queue, prefetch=10)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(20)])
        got = [*await receive(one, 10), *await receive(two, 10)]
        assert sorted(map(int, bodies(got))) == list(range(20))

    async def test_a_full_consumer_leaves_the_rest_to_its_neighbour(self, bus: Bus, queue: str) -> None:
        full = await bus.consume(queue, prefetch=1)
        free = await bus.consume(queue, prefetch=100)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(30)])
        got = [*await receive(full, 1), *await receive(free, 29)]
        assert sorted(map(int, bodies(got))) == list(range(30))

    @pytest.mark.parametrize(
        ("pattern", "fits", "fits_not"),
        [
            ("feed.router", ["feed.router"], ["feed", "feed.router.x", "feed.gateway"]),
            ("feed.*", ["feed.router", "feed.gateway"], ["feed", "feed.a.b", "heartbeat.router"]),
            ("feed.#", ["feed", "feed.a", "feed.a.b"], ["food.a", "a.feed"]),
            ("*.router", ["feed.router", "heartbeat.router"], ["router", "a.b.router"]),
            ("#", ["a", "a.b.c"], []),
            ("a.#.z", ["a.z", "a.b.z", "a.b.c.z"], ["a.b", "z"]),
            ("#.b.*", ["b.c", "a.b.c"], ["b", "a.b"]),
        ],
    )
    async def test_topic_patterns(self, hub: Hub, bus: Bus, pattern: str, fits: list[str], fits_not: list[str]) -> None:
        events = hub.names.events
        subscriber = await bus.subscribe([Binding(events, "", pattern)])
        outcomes = await bus.publish([Outgoing(events, key, key.encode()) for key in fits_not + fits])
        assert outcomes == [UNROUTABLE] * len(fits_not) + [CONFIRMED] * len(fits)
        assert bodies(await receive(subscriber, len(fits))) == [key.encode() for key in fits]

    async def test_several_bindings_bring_a_message_once(self, hub: Hub, bus: Bus) -> None:
        events = hub.names.events
        subscriber = await bus.subscribe([Binding(events, "", "a.*"), Binding(events, "", "*.b")])
        await bus.publish([Outgoing(events, key, key.encode()) for key in ("a.b", "a.c", "d.b")])
        assert bodies(await receive(subscriber, 3)) == [b"a.b", b"a.c", b"d.b"]

    async def test_every_subscriber_of_a_fanout_gets_all(self, hub: Hub, bus: Bus) -> None:
        subscribers = [await (await hub.connect()).subscribe([Binding(hub.names.control, "", "")]) for _ in range(3)]
        await bus.publish([Outgoing(hub.names.control, "any", b"1"), Outgoing(hub.names.control, "", b"2")])
        for subscriber in subscribers:
            assert bodies(await receive(subscriber, 2)) == [b"1", b"2"]

    async def test_a_reply_reaches_the_one_who_asked(self, hub: Hub, bus: Bus) -> None:
        here = await bus.subscribe([])
        there = await (await hub.connect()).subscribe([])
        assert here.reply_address != there.reply_address
        reply = Outgoing("", here.reply_address, b"yes", persistent=False, correlation_id="c-1")
        assert await (await hub.connect()).publish([reply]) == [CONFIRMED]
        (got,) = await receive(here, 1)
        assert (got.body, got.correlation_id, got.queue) == (b"yes", "c-1", here.reply_address)

    async def test_more_arrives_at_a_subscriber_than_its_prefetch(self, bus: Bus) -> None:
        subscriber = await bus.subscribe([], prefetch=5)
        sent = [b"%d" % number for number in range(50)]
        await bus.publish([Outgoing("", subscriber.reply_address, body) for body in sent])
        assert bodies(await receive(subscriber, 50)) == sent

    async def test_a_queue_of_ones_own_is_gone_with_its_connection(self, hub: Hub, bus: Bus) -> None:
        other = await hub.connect()
        address = (await other.subscribe([])).reply_address
        closed_alone = await bus.subscribe([])
        await other.close()
        await closed_alone.close()

        async def gone() -> bool:
            messages = [Outgoing("", name, b"") for name in (address, closed_alone.reply_address)]
            return await bus.publish(messages) == [UNROUTABLE, UNROUTABLE]

        await eventually(gone, "queues of one's own are deleted")

    async def test_depth_counts_what_is_ready(self, hub: Hub, bus: Bus, queue: str) -> None:
        await bus.publish([Outgoing("", queue, b"")] * 5)
        await eventually_depth(bus, queue, 5)
        assert await bus.depth(hub.names.usage) == 0
        assert await bus.depth(f"{hub.names.organism}.missing") is None
        await receive(await bus.consume(queue, prefetch=2), 2)
        await eventually_depth(bus, queue, 3)

    async def test_declaring_again_and_all_at_once_changes_nothing(self, hub: Hub, bus: Bus, queue: str) -> None:
        await bus.publish([Outgoing("", queue, b"kept")])
        others = await asyncio.gather(*(hub.connect() for _ in range(4)))
        topology = organism_topology(hub.names.organism, ["greeter", "shouter", "third"])
        await asyncio.gather(*(one.declare(topology) for one in (bus, *others)))
        assert await others[0].publish([Outgoing("", hub.names.agent("third"), b"")]) == [CONFIRMED]
        assert bodies(await receive(await others[1].consume(queue, prefetch=1), 1)) == [b"kept"]

    async def test_other_settings_for_what_exists_are_refused(self, hub: Hub, bus: Bus, queue: str) -> None:
        with pytest.raises(Refused, match=queue):
            await bus.declare(Topology((), (Queue(queue, dead_exchange="another"),), ()))
        with pytest.raises(Refused, match=hub.names.events):
            await bus.declare(Topology((Exchange(hub.names.events, "fanout"),), (), ()))
        assert await bus.publish([Outgoing("", queue, b"")]) == [CONFIRMED]

    async def test_consuming_what_is_not_there_is_an_error(self, hub: Hub, bus: Bus) -> None:
        with pytest.raises(NotFound, match="missing"):
            await bus.consume(f"{hub.names.organism}.missing", prefetch=1)
        with pytest.raises(NotFound, match="missing"):
            await bus.subscribe([Binding(f"{hub.names.organism}.missing", "", "#")])
        with pytest.raises(ValueError, match="prefetch"):
            await bus.consume(hub.names.ingress, prefetch=0)

    async def test_a_deleted_queue_is_made_again_and_consumed_again(self, hub: Hub, bus: Bus, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        await bus.publish([Outgoing("", queue, b"before")])
        (before,) = await receive(consumer, 1)
        await hub.delete_queue(queue)
        assert await bus.publish([Outgoing("", queue, b"after")], timeout=PATIENCE) == [CONFIRMED]
        (after,) = await receive(consumer, 1)
        await consumer.ack([before, after])
        assert after.body == b"after"
        assert consumer.healthy

    async def test_a_deleted_exchange_is_made_again_with_its_subscribers(self, hub: Hub, bus: Bus) -> None:
        message = Outgoing(hub.names.events, "feed.a", b"", persistent=False)
        subscriber = await bus.subscribe([Binding(hub.names.events, "", "feed.*")])
        assert await bus.publish([message]) == [CONFIRMED]
        await hub.delete_exchange(hub.names.events)

        async def works_again() -> bool:
            return await bus.publish([message]) == [CONFIRMED]

        await eventually(works_again, "the exchange has its subscriber again")
        assert len(await receive(subscriber, 2)) == 2

    async def test_a_consumer_says_that_it_is_well_until_closed(self, bus: Bus, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=1)
        assert consumer.healthy
        assert consumer.reply_address == queue
        waiting = asyncio.create_task(consumer.batch(1))
        await asyncio.sleep(0)
        await consumer.close()
        await consumer.close()
        with pytest.raises(BrokerUnavailable):
            await waiting
        with pytest.raises(BrokerUnavailable):
            await consumer.batch(1)
        assert not consumer.healthy

    async def test_a_closed_bus_stays_quiet(self, bus: Bus, queue: str) -> None:
        assert bus.connected
        await bus.consume(queue, prefetch=1)
        await bus.close()
        await bus.close()
        assert await bus.publish([Outgoing("", queue, b"")]) == [Published.UNKNOWN]
        assert await bus.depth(queue) is None
        with pytest.raises(BrokerUnavailable):
            await bus.consume(queue, prefetch=1)
        with pytest.raises(BrokerUnavailable):
            await bus.declare(Topology((), (Queue(queue),), ()))
        assert not bus.connected
