"""Gathers the facts, as far as they can be had, and has them judged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from xml_pipeline.doctor.model import Finding, failed, skipped
from xml_pipeline.doctor.of_broker import judge_broker, judge_management, not_asked_management
from xml_pipeline.doctor.of_database import judge_database
from xml_pipeline.doctor.prices import judge_prices, look_at_prices
from xml_pipeline.errors import BrokerUnavailable, DatabaseUnavailable, Refused
from xml_pipeline.message_bus.management import look_at_management, vhost_of
from xml_pipeline.message_bus.rights import SERVICES, rights_of
from xml_pipeline.message_bus.topology import Names, organism_topology

NAME = "organism-doctor"
_WITH_DATABASE = ("gateway", "router", "usage")


@dataclass(frozen=True, slots=True)
class Patient:
    """What to look at. `organism` and `listeners` are what the broker has queues for.

    `services`: whose users; `prefix` begins their names. `reads`: the user agent-worker is to read the assignments of
    these listeners alone; None: of all.
    """

    database_url: str | None = None
    amqp_url: str | None = None
    management_url: str | None = None
    organism: str = ""
    listeners: tuple[str, ...] = ()
    prefix: str = ""
    services: tuple[str, ...] = SERVICES
    reads: tuple[str, ...] | None = None


async def examine(patient: Patient) -> list[Finding]:
    """Everything that can be looked at. Raises InvalidInput for URLs that cannot be read; what is gone is a finding."""
    of_broker, of_management, of_database = await asyncio.gather(
        _broker(patient), asyncio.to_thread(_management, patient), _database(patient)
    )
    prices = judge_prices(look_at_prices(), datetime.now(UTC))
    return [*of_broker, *of_management, *of_database, prices]


async def _broker(patient: Patient) -> Sequence[Finding]:
    if patient.amqp_url is None:
        return [skipped("broker", "ORGANISM_AMQP_URL is not set", "set it to have the broker looked at")]
    # Here, since who looks at the database alone needs no AMQP.
    from xml_pipeline.message_bus.rabbit.looking import look_at_broker

    try:
        topology = organism_topology(patient.organism, patient.listeners)
        facts = await look_at_broker(patient.amqp_url, topology, name=NAME)
    except BrokerUnavailable as error:
        return [failed("broker", str(error), "start it, or correct ORGANISM_AMQP_URL")]
    return list(judge_broker(facts, Names(patient.organism)))


def _management(patient: Patient) -> Sequence[Finding]:
    if patient.amqp_url is None:
        return []
    if patient.management_url is None:
        return list(not_asked_management())
    expected = {
        patient.prefix + service: (service, rights_of(service, patient.organism, patient.reads))
        for service in patient.services
    }
    try:
        vhost, events = vhost_of(patient.amqp_url), Names(patient.organism).events
        facts = look_at_management(patient.management_url, vhost, expected, events)
    except (BrokerUnavailable, Refused) as error:
        return [failed("broker-management", str(error), "correct --management, or enable the plugin there")]
    return list(judge_management(facts, expected))


async def _database(patient: Patient) -> Sequence[Finding]:
    if patient.database_url is None:
        return [skipped("database", "ORGANISM_DATABASE_URL is not set", "set it to have the database looked at")]
    # Here, since who looks at the broker alone needs no database.
    from xml_pipeline.storage.database import Database
    from xml_pipeline.storage.looking import look_at_database

    users = {service: patient.prefix + service for service in _WITH_DATABASE if service in patient.services}
    db = Database.connect(patient.database_url, pool_size=1, application_name=NAME)
    try:
        return list(judge_database(await look_at_database(db, users), users))
    except DatabaseUnavailable as error:
        return [failed("database", str(error), "start it, or correct ORGANISM_DATABASE_URL")]
    finally:
        await db.close()
