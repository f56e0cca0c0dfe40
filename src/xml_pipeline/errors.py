"""The tree of errors: every failure the system names has a class and a stable code.

XmlPipelineError
 +-- InvalidInput            what came from outside is wrong; the message says where and what to do
 |    +-- InvalidXml         bytes that are no acceptable XML document
 |    +-- InvalidPayload     a document or object that its schema refuses, with one fault per place
 |    +-- UnsupportedPayload a class whose fields XML cannot carry, with one fault per field
 |    +-- InvalidOrganism    an organism.yaml with faults, each with its line
 +-- Refused                 what was asked is known and not allowed now
 +-- NotFound                what was named does not exist
 +-- SchemaOutdated          the database has another schema than this version needs
 +-- Unavailable             a part that is needed does not answer; trying again later is right
      +-- BrokerUnavailable
      +-- DatabaseUnavailable
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class XmlPipelineError(Exception):
    """The root of every error raised on purpose; `code` is stable and meant for programs."""

    code: ClassVar[str] = "internal"


class InvalidInput(XmlPipelineError):
    """What came from outside is wrong."""

    code = "invalid-input"


class InvalidXml(InvalidInput):
    """Bytes that are not an acceptable XML document."""

    code = "invalid-xml"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one place: `path` is a field path, an element path, or `file:line`."""

    path: str
    message: str


class InvalidPayload(InvalidInput):
    """A document or object that its schema refuses."""

    code = "invalid-payload"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in self.faults))


class UnsupportedPayload(InvalidInput):
    """A class that cannot be a payload."""

    code = "unsupported-payload"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in self.faults))


class InvalidOrganism(InvalidInput):
    """An organism.yaml with faults."""

    code = "invalid-organism"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.path}: {fault.message}" for fault in self.faults))


class Refused(XmlPipelineError):
    """What was asked is known and not allowed now."""

    code = "refused"


class NotFound(XmlPipelineError):
    """What was named does not exist."""

    code = "not-found"


class SchemaOutdated(XmlPipelineError):
    """The database has another schema than this version needs."""

    code = "schema-outdated"


class Unavailable(XmlPipelineError):
    """A part that is needed does not answer; trying again later is right."""

    code = "unavailable"


class BrokerUnavailable(Unavailable):
    """The message broker does not answer."""

    code = "broker-unavailable"


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    code = "database-unavailable"
