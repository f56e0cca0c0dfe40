"""What a handler may import."""

from xml_pipeline.envelope.system import Huh, SystemError  # noqa: A004 the name is the payload's
from xml_pipeline.worker.handler_api import HandlerMetadata, HandlerResponse

__all__ = ["HandlerMetadata", "HandlerResponse", "Huh", "SystemError"]
