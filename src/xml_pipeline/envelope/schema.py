"""A compiled XML schema, and its findings in words that a person or a model can act on."""

from __future__ import annotations

import re
import threading

from lxml import etree

from xml_pipeline.errors import Fault

_MAX_FAULTS = 20
_MAX_MESSAGE = 300
_PREFIX = re.compile(r"^Element '(?:\{[^}]*\})?([^']*)'(?:, attribute '[^']*')?: (?:\[facet '\w+'\] )?")
_NAMESPACE = re.compile(r"\{[^}]*\}")
_EXPECTED = re.compile(r"(.*?) Expected is (?:one of )?\( (.*?) \)\.$")
_LOCAL_TYPE = re.compile(r" of the local (?:atomic|union) type")

_NO_SUCH_ROOT = "No matching global declaration available for the validation root."


class SchemaValidator:
    """An XSD, compiled once. Safe to use from many threads: lxml keeps the findings on the schema, so one at a time."""

    def __init__(self, xsd: str | bytes) -> None:
        """Compile; raise etree.XMLSchemaParseError if `xsd` is none."""
        document = etree.fromstring(xsd.encode() if isinstance(xsd, str) else xsd)
        self._schema = etree.XMLSchema(document)
        self._lock = threading.Lock()

    def validate(self, element: etree._Element) -> list[Fault]:
        """List what is wrong with `element` as a document of its own; empty if nothing is."""
        with self._lock:
            try:
                if self._schema.validate(element):
                    return []
            except etree.XMLSchemaError:
                return [Fault("/", "it could not be checked")]  # libxml2 gave up
            findings = [(str(entry.path or "/"), str(entry.message)) for entry in self._schema.error_log]
        return _faults(findings)


def _faults(findings: list[tuple[str, str]]) -> list[Fault]:
    """One fault for each place: a broken facet is followed by a second finding that says less."""
    faults: dict[str, Fault] = {}
    for path, message in findings[:_MAX_FAULTS]:
        faults.setdefault(path, Fault(path, _in_words(message)))
    return list(faults.values())


def _in_words(message: str) -> str:
    text = _NAMESPACE.sub("", _PREFIX.sub("", message))
    text = _LOCAL_TYPE.sub("", text)
    expected = _EXPECTED.match(text)
    if expected is not None:
        text = f"{expected.group(1)} Expected: {expected.group(2)}."
    text = text.replace(
        "No matching global declaration available for the validation root.", "this root is not expected."
    )
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
