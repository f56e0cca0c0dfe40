"""Bytes <-> `Envelope`, `Turn`, `Assignment`. What is written is exclusive canonical XML; what is read is validated."""

from __future__ import annotations

from importlib.resources import files
from uuid import UUID

from lxml import etree

from xml_pipeline.envelope.model import (
    ASSIGNMENT_NS,
    ENVELOPE_NS,
    TURN_NS,
    Assignment,
    Envelope,
    Kind,
    Outcome,
    Output,
    Reply,
    Turn,
)
from xml_pipeline.envelope.parser import MAX_BYTES, MAX_DEPTH, parse
from xml_pipeline.envelope.schema import SchemaValidator
from xml_pipeline.envelope.text import clean_text, encode_text, escape_attribute, escape_text
from xml_pipeline.errors import InvalidXml

MAX_TURN_BYTES = 16 * 1024 * 1024  # what a broker carries at most: a larger one would never leave its worker
MAX_ASSIGNMENT_BYTES = 32 * 1024 * 1024
_MAX_DEPTH = MAX_DEPTH + 3  # a payload of the largest depth stands inside a message inside an assignment


def _schema(name: str) -> SchemaValidator:
    return SchemaValidator((files("xml_pipeline.envelope") / "schemas" / name).read_bytes())


_ENVELOPE_SCHEMA = _schema("envelope.xsd")
_TURN_SCHEMA = _schema("turn.xsd")
_ASSIGNMENT_SCHEMA = _schema("assignment.xsd")
_KINDS = {kind.value: kind for kind in Kind}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_TURN_TAG = f"{{{TURN_NS}}}turn"
_TURN_ASKED = f"{{{TURN_NS}}}asked"
_TURN_REASON = f"{{{TURN_NS}}}reason"
_TURN_MALFORMED = f"{{{TURN_NS}}}malformed"


def canonical(element: etree._Element) -> bytes:
    """Give the exclusive canonical form of `element` alone; raise InvalidXml if it has none (a relative namespace)."""
    try:
        return etree.tostring(element, method="c14n", exclusive=True)
    except etree.C14NError:
        raise InvalidXml("the document has no canonical form: is a namespace a relative name?") from None


def canonical_payload(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Parse a payload that somebody wrote and give its canonical form; raise InvalidXml if the parser refuses it."""
    return canonical(parse(encode_text(data) if isinstance(data, str) else data, max_bytes=max_bytes))


def payload_tag(payload: bytes) -> str:
    """Read the root tag of a canonical payload."""
    end = payload.index(b">")
    space = payload.find(b" ", 0, end)
    return payload[1 : end if space < 0 else space].decode()


def encode_envelope(envelope: Envelope) -> bytes:
    """Write the canonical envelope around the canonical payload."""
    trace = "" if envelope.traceparent is None else f"<traceparent>{envelope.traceparent}</traceparent>"
    return (
        f'<message xmlns="{ENVELOPE_NS}"><meta><from>{escape_text(envelope.from_id)}</from>'
        f"<to>{escape_text(envelope.to_id)}</to><thread>{envelope.thread_id}</thread>{trace}</meta>"
    ).encode() + b"%b</message>" % _embedded(envelope.payload)


def decode_envelope(data: bytes, *, max_bytes: int = MAX_BYTES) -> Envelope:
    """Read an envelope of at most `max_bytes`; raise InvalidXml if it is none."""
    return _read_envelope(parse(data, max_bytes=max_bytes, max_depth=_MAX_DEPTH))


def encode_turn(turn: Turn) -> bytes:
    """Write a turn; what XML cannot carry in its reasons is replaced."""
    reason = "" if turn.reason is None else f"<reason>{escape_text(clean_text(turn.reason))}</reason>"
    asked = f"<asked>{turn.asked}</asked>" if turn.asked else ""
    head = (
        f'<turn xmlns="{TURN_NS}"><id>{turn.id}</id><message>{turn.message_id}</message>'
        f"<attempt>{turn.attempt}</attempt><outcome>{turn.outcome.value}</outcome>"
        f"<duration-ms>{turn.duration_ms}</duration-ms>{asked}{reason}"
    ).encode()
    return head + b"".join(map(_write_output, turn.outputs)) + b"</turn>"


def decode_turn(data: bytes, *, max_bytes: int = MAX_TURN_BYTES, max_payload_bytes: int = MAX_BYTES) -> Turn:
    """Read a turn; raise InvalidXml if it is none. An output beyond `max_payload_bytes` comes as a malformed one."""
    return _read_turn(parse(data, max_bytes=max_bytes, max_depth=_MAX_DEPTH), max_payload_bytes)


def decode_ingress(
    data: bytes, *, max_bytes: int = MAX_TURN_BYTES, max_payload_bytes: int = MAX_BYTES
) -> Envelope | Turn:
    """Read what came on ingress, an envelope or a turn, told apart by the root; raise InvalidXml on anything else."""
    root = parse(data, max_bytes=max_bytes, max_depth=_MAX_DEPTH)
    return _read_turn(root, max_payload_bytes) if root.tag == _TURN_TAG else _read_envelope(root)


def encode_assignment(assignment: Assignment) -> bytes:
    """Write an assignment."""
    head = (
        f'<assignment xmlns="{ASSIGNMENT_NS}"><id>{assignment.message_id}</id><attempt>{assignment.attempt}</attempt>'
        f"<kind>{assignment.kind.value}</kind><call>{assignment.call}</call><config>{assignment.config_version}</config>"
        f"<timeout>{assignment.timeout!r}</timeout><remaining>{assignment.remaining}</remaining>"
    ).encode()
    replies = b"".join(map(_write_reply, assignment.replies))
    return b"%b%b%b</assignment>" % (head, replies, encode_envelope(assignment.envelope))


def decode_assignment(data: bytes, *, max_bytes: int = MAX_ASSIGNMENT_BYTES) -> Assignment:
    """Read an assignment; raise InvalidXml if it is none."""
    root = parse(data, max_bytes=max_bytes, max_depth=_MAX_DEPTH)
    _require_valid(_ASSIGNMENT_SCHEMA, root)
    fields = [child.text or "" for child in root[:7]]
    return Assignment(
        message_id=UUID(fields[0]),
        attempt=int(fields[1]),
        kind=_KINDS[fields[2]],
        call=UUID(fields[3]),
        config_version=int(fields[4]),
        timeout=float(fields[5]),
        remaining=int(fields[6]),
        replies=tuple(_read_reply(child) for child in root[7:-1]),
        envelope=_read_envelope(root[-1]),
    )


def _embedded(payload: bytes) -> bytes:
    """Give the payload as it stands inside an element with a default namespace: its root takes that back."""
    end = payload.index(b">")
    if payload.find(b' xmlns="', 0, end) >= 0:
        return payload
    space = payload.find(b" ", 0, end)
    at = end if space < 0 else space
    return b'%b xmlns=""%b' % (payload[:at], payload[at:])


def _write_output(output: Output) -> bytes:
    to = "" if output.to is None else f' to="{escape_attribute(clean_text(output.to))}"'
    head = f'<output kind="{output.kind.value}"{to}>'.encode()
    if output.payload is not None:
        return b"%b%b</output>" % (head, _embedded(output.payload))
    why = escape_text(clean_text(output.malformed or "it is no XML"))
    return head + f"<malformed>{why}</malformed></output>".encode()


def _write_reply(reply: Reply) -> bytes:
    head = f'<reply from="{escape_attribute(reply.from_id)}" kind="{reply.kind.value}">'
    return head.encode() + _embedded(reply.payload) + b"</reply>"


def _read_envelope(root: etree._Element) -> Envelope:
    _require_valid(_ENVELOPE_SCHEMA, root)
    meta, payload = root
    from_id, to_id, thread, *trace = (child.text or "" for child in meta)
    return Envelope(from_id, to_id, UUID(thread), canonical(payload), trace[0] if trace else None)


def _read_turn(root: etree._Element, max_payload_bytes: int) -> Turn:
    _require_valid(_TURN_SCHEMA, root)
    identity, message, attempt, outcome, duration, *rest = root
    asked = int(rest.pop(0).text or 0) if rest and rest[0].tag == _TURN_ASKED else 0
    reason = None
    if rest and rest[0].tag == _TURN_REASON:
        reason = rest.pop(0).text or ""
    if (outcome.text == Outcome.PARKED.value) != (asked > 0):
        raise InvalidXml("/turn/asked: goes with a parked turn, and only with one")
    return Turn(
        id=UUID(identity.text),
        message_id=UUID(message.text),
        attempt=int(attempt.text or 0),
        outcome=_OUTCOMES[outcome.text or ""],
        outputs=tuple(_read_output(element, max_payload_bytes) for element in rest),
        reason=reason,
        duration_ms=int(duration.text or 0),
        asked=asked,
    )


def _read_output(element: etree._Element, max_payload_bytes: int) -> Output:
    kind, to, content = _KINDS[element.get("kind", "")], element.get("to"), element[0]
    if content.tag == _TURN_MALFORMED:
        return Output(kind, to, None, content.text or "")
    payload = canonical(content)
    if len(payload) > max_payload_bytes:
        return Output(kind, to, None, f"it has {len(payload)} bytes; at most {max_payload_bytes} are allowed")
    return Output(kind, to, payload)


def _read_reply(element: etree._Element) -> Reply:
    return Reply(element.get("from") or "", _KINDS[element.get("kind", "")], canonical(element[0]))


def _require_valid(schema: SchemaValidator, root: etree._Element) -> None:
    faults = schema.validate(root)
    if faults:
        raise InvalidXml("; ".join(f"{fault.path}: {fault.message}" for fault in faults[:3]))
