"""Envelopes per second in the router's XML: parse, validate envelope and payload, canonical form, beside bare lxml."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from uuid import UUID

from lxml import etree

from tests.benchmarks.figures import Figure, per_second
from xml_pipeline.envelope.codec import decode_envelope, encode_envelope
from xml_pipeline.envelope.model import Envelope
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.organism.load import load_organism

ROUNDS = 5
COUNT = 5_000
BALL = "<ping.ball><left>10</left><to>ping</to><text>{}</text></ping.ball>".format("word " * 160)


def run() -> list[Figure]:
    """Both alternate, so that the machine's drift is in both."""
    catalog = Catalog(load_organism(Path(__file__).parent / "pingpong" / "organism.yaml"))
    data = encode_envelope(Envelope("pong", "ping", UUID(int=7), BALL.encode()))
    bare = _bare(catalog.payload_type("ping").xsd)

    def ours() -> None:
        envelope = decode_envelope(data)
        catalog.validate_request(envelope.to_id, envelope.payload)
        encode_envelope(envelope)

    own, raw = [], []
    for _ in range(ROUNDS):
        own.append(_seconds(ours))
        raw.append(_seconds(lambda: bare(data)))
    label = f"envelopes of {len(data)} bytes: parse, validate, canonical form"
    return [Figure(label, per_second(COUNT, own), "bare lxml", per_second(COUNT, raw))]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(COUNT):
        work()
    return time.perf_counter() - start


def _bare(payload_xsd: str) -> Callable[[bytes], bytes]:
    """The same in bare lxml, with nothing guarded: parse, both XSDs, exclusive C14N of the whole."""
    outer = etree.XMLSchema(
        etree.fromstring(files("xml_pipeline.envelope").joinpath("schemas/envelope.xsd").read_bytes())
    )
    schema = etree.XMLSchema(etree.fromstring(payload_xsd.encode()))
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)

    def chain(data: bytes) -> bytes:
        root = etree.fromstring(data, parser)
        if not (outer.validate(root) and schema.validate(root[1])):
            raise ValueError("the benchmark's own envelope is invalid")
        return etree.tostring(root, method="c14n", exclusive=True, with_comments=False)

    return chain
