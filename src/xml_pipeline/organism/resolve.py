"""From a listener as it is written to a listener with its classes: what it names is imported, compiled and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xml_pipeline.envelope.system import Huh, SystemError  # noqa: A004 - the payload class of that name
from xml_pipeline.errors import Fault, UnsupportedPayload
from xml_pipeline.organism.document import Document
from xml_pipeline.organism.handlers import Accepted, accepted_payloads, handler_fault
from xml_pipeline.organism.imports import Resolver, Unresolved
from xml_pipeline.organism.model import Listener, ResponseType
from xml_pipeline.organism.names import RESERVED, did_you_mean
from xml_pipeline.organism.sections import ListenerSection, Reference
from xml_pipeline.payload.introspect import class_name, is_payload_class
from xml_pipeline.payload.payload_type import PayloadType


@dataclass(slots=True)
class Resolution:
    """The listeners of one file on their way: faults go to the document, doubts are warnings."""

    document: Document
    resolver: Resolver
    names: frozenset[str]
    warnings: list[Fault] = field(default_factory=list)
    accepted: dict[str, Accepted] = field(default_factory=dict)

    def listener(self, section: ListenerSection) -> Listener | None:
        """Resolve one listener; None where something it needs is wrong."""
        payload = self._payload_type(section.name, section.payload_class)
        handler = self._handler(section.handler)
        responses = tuple(self._response(section.name, reference) for reference in section.responses)
        self._check_peers(section)
        self._check_tags(section, payload, responses)
        if payload is None or handler is None:
            return None
        accepted = self._accepted(section, handler, payload.cls)
        values = dict(section.values)
        return Listener(
            name=section.name,
            description=values.pop("description", ""),
            payload_class=payload.cls,
            handler=handler,
            root_tag=payload.root_tag,
            schema=payload.xsd,
            is_agent=values.pop("agent", False),
            peers=tuple(dict.fromkeys(peer.name for peer in section.peers)),
            responses=tuple(
                ResponseType(response.cls, response.root_tag, response.xsd) for response in responses if response
            ),
            accepts_errors=accepted.takes(SystemError),
            accepts_huh=accepted.takes(Huh),
            **values,
        )

    def find(self, reference: Reference, what: str) -> object | None:
        """Import what a reference names; None where it leads nowhere."""
        try:
            return self.resolver.resolve(reference.name)
        except Unresolved as error:
            self.document.fault(reference.node, f"{what} {reference.name!r}: {error}")
            return None

    def warn(self, reference: Reference, message: str) -> None:
        """Note what runs and is likely not meant."""
        self.warnings.append(Fault(self.document.place(reference.node), message))

    def _payload_type(
        self, listener: str, reference: Reference | None, what: str = "payload_class"
    ) -> PayloadType | None:
        cls = None if reference is None else self.find(reference, what)
        if reference is None or cls is None:
            return None
        if not isinstance(cls, type) or not is_payload_class(cls):
            self.document.fault(reference.node, f"{what} {reference.name!r} is no pydantic model and no dataclass")
            return None
        try:
            return PayloadType(cls, f"{listener}.{cls.__name__}".lower())
        except UnsupportedPayload as error:
            for fault in error.faults:
                self.document.fault(reference.node, f"{what} {fault.path}: {fault.message}")
            return None

    def _response(self, listener: str, reference: Reference) -> PayloadType | None:
        return self._payload_type(listener, reference, "response_class")

    def _handler(self, reference: Reference | None) -> Callable[..., Any] | None:
        handler = None if reference is None else self.find(reference, "handler")
        if reference is None or handler is None:
            return None
        found = handler_fault(handler)
        if found is not None or not callable(handler):
            self.document.fault(reference.node, f"handler {reference.name!r} {found}")
            return None
        return handler

    def _accepted(self, section: ListenerSection, handler: Callable[..., Any], payload: type[Any]) -> Accepted:
        accepted = accepted_payloads(handler)
        self.accepted[section.name] = accepted
        if section.handler is not None:
            if accepted.doubt is not None:
                self.warn(section.handler, f"handler {section.handler.name!r}: {accepted.doubt}")
            if not accepted.takes(payload):
                message = f"handler {section.handler.name!r} does not take its payload class {class_name(payload)}"
                self.document.fault(section.handler.node, message)
        return accepted

    def _check_peers(self, section: ListenerSection) -> None:
        seen: set[str] = set()
        for peer in section.peers:
            if peer.name in seen:
                self.document.fault(peer.node, f"the peer {peer.name!r} is there twice")
            elif peer.name.lower() in RESERVED:
                self.document.fault(peer.node, f"{peer.name!r} is reserved and cannot be a peer")
            elif peer.name not in self.names:
                hint = did_you_mean(peer.name, self.names)
                self.document.fault(peer.node, f"the peer {peer.name!r} is no listener{hint}")
            seen.add(peer.name)

    def _check_tags(
        self, section: ListenerSection, payload: PayloadType | None, responses: tuple[PayloadType | None, ...]
    ) -> None:
        """One root tag must mean one class."""
        classes: dict[str, type[Any]] = {} if payload is None else {payload.root_tag: payload.cls}
        for reference, response in zip(section.responses, responses, strict=True):
            if response is None:
                continue
            known = classes.setdefault(response.root_tag, response.cls)
            if known is not response.cls:
                message = f"response_class {reference.name!r} and {class_name(known)} have one name on the wire"
                self.document.fault(reference.node, message)
