"""A payload class <-> its XSD, its example, XML and JSON."""

from xml_pipeline.envelope.schema import SchemaValidator
from xml_pipeline.payload.json_form import xml_to_json
from xml_pipeline.payload.payload_type import PayloadType

__all__ = ["PayloadType", "SchemaValidator", "xml_to_json"]
