"""Whether payloads fit their schemas, in words for the one who wrote them."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from xml_pipeline.envelope.parser import parse
from xml_pipeline.errors import InvalidPayload, InvalidXml
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.current import Configured


@dataclass(frozen=True, slots=True)
class CatalogCheck:
    """Checks against an organism's catalog."""

    catalog: Catalog
    max_bytes: int

    def request_fault(self, to: str, payload: bytes) -> str | None:
        """What is wrong with a request to this listener, None for nothing."""
        try:
            self.catalog.validate_request(to, self._parse(payload))
        except (InvalidPayload, InvalidXml) as error:
            return str(error)
        return None

    def response_fault(self, responder: str, payload: bytes) -> str | None:
        """What is wrong with a response of this listener, None for nothing."""
        try:
            self.catalog.validate_response(responder, self._parse(payload))
        except (InvalidPayload, InvalidXml) as error:
            return str(error)
        return None

    def _parse(self, payload: bytes) -> etree._Element:
        return parse(payload, max_bytes=self.max_bytes)


def configured(organism: Organism, version: int) -> Configured:
    """Compile what the router needs of an organism."""
    check = CatalogCheck(Catalog(organism), organism.limits.max_envelope_bytes)
    return Configured(organism, version, check)
