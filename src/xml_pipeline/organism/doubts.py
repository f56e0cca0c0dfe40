"""What runs and is likely not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xml_pipeline.errors import Fault
from xml_pipeline.organism.document import Document
from xml_pipeline.organism.handlers import Accepted
from xml_pipeline.organism.model import Listener
from xml_pipeline.organism.sections import ListenerSection


def responses_not_taken(
    document: Document,
    sections: Iterable[ListenerSection],
    listeners: Mapping[str, Listener],
    accepted: Mapping[str, Accepted],
) -> Iterator[Fault]:
    """Find peers whose answers the asking handler's annotation does not take."""
    for section in sections:
        for peer in section.peers:
            for response in listeners[peer.name].responses:
                if not accepted[section.name].takes(response.cls):
                    message = f"{section.name!r} does not take {response.cls.__name__}, which its peer answers with"
                    yield Fault(document.place(peer.node), message)
