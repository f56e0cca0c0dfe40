"""The catalog knows what each listener takes and answers with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.organism.folders import write
from xml_pipeline.envelope.parser import parse
from xml_pipeline.envelope.system import Huh
from xml_pipeline.errors import InvalidPayload, NotFound
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.organism.load import load_organism

ASK = b"<asker.ask><text>x</text></asker.ask>"
ANSWER = b"<asker.answer><text>x</text></asker.answer>"
HUH = b"<huh><code>c</code><reason>r</reason></huh>"
ERROR = b"<SystemError><code>c</code><message>m</message></SystemError>"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(load_organism(write(tmp_path)))


def test_requests(catalog: Catalog) -> None:
    catalog.validate_request("asker", ASK)
    catalog.validate_request("asker", parse(ASK))
    for wrong in (
        ANSWER,
        HUH,
        ERROR,
        ASK.replace(b"text", b"txt"),
        b'<asker.ask xmlns="urn:x"><text>x</text></asker.ask>',
    ):
        with pytest.raises(InvalidPayload):
            catalog.validate_request("asker", wrong)
    with pytest.raises(NotFound):
        catalog.validate_request("nobody", ASK)


def test_responses(catalog: Catalog) -> None:
    for right in (ANSWER, HUH, ERROR):
        catalog.validate_response("asker", right)
    for wrong in (ASK, ANSWER.replace(b"text", b"txt"), b"<huh/>", b"<other.answer><text>x</text></other.answer>"):
        with pytest.raises(InvalidPayload):
            catalog.validate_response("asker", wrong)
    with pytest.raises(InvalidPayload):
        catalog.validate_response("nobody", ANSWER)


def test_types_by_tag(catalog: Catalog) -> None:
    huh = catalog.find("huh")
    assert huh is not None
    assert huh.from_xml(HUH) == Huh("c", "r")
    assert catalog.find("asker.answer") is not None
    assert catalog.find("other.answer") is None
    assert catalog.payload_type("asker").root_tag == "asker.ask"
