"""Logging: one line for each event, as JSON or for people, on standard error."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from uuid import UUID

import structlog
from structlog.types import Processor

from xml_pipeline.tracing.ids import trace_text

# Libraries that tell more than anyone wants to know at `info`.
_QUIET = ("alembic", "asyncio", "httpx", "httpcore", "uvicorn", "sqlalchemy")
# The bus tells what becomes of its connections, tracing of its exports; these would tell it again, at each attempt.
_SILENT = ("aio_pika", "aiormq", "opentelemetry")


def configure_logging(level: str, *, style: str = "json") -> None:
    """Send structlog and the standard library's loggers to standard error, from `level` on."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(style)],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def log_ids(thread_id: UUID | None, message_id: UUID | None = None) -> dict[str, str]:
    """What a line about a message of a thread carries, as far as it is known."""
    ids = {} if thread_id is None else {"thread_id": str(thread_id), "trace_id": trace_text(thread_id)}
    return ids if message_id is None else ids | {"message_id": str(message_id)}


def logs_about(thread_id: UUID | None, message_id: UUID | None = None) -> AbstractContextManager[None]:
    """Have all lines of this task carry the ids, and those of the tasks that it starts."""
    return structlog.contextvars.bound_contextvars(**log_ids(thread_id, message_id))


def _renderer(style: str) -> Processor:
    if style == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
