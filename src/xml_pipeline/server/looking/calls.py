"""Calling what a pump offers: with what its function takes, and with its failures told as problems."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import structlog

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.pump import call

log = structlog.get_logger(__name__)

_BY_ORDER = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


async def call_inject(method: Callable[..., object], **values: object) -> object:
    """Hand a message over; what the pump calls wrong with it (ValueError, LookupError) is a Problem 400."""
    args, kwargs = arranged(method, values)
    try:
        return await call(method, *args, **kwargs)
    except (Problem, XmlPipelineError):
        raise
    except (ValueError, LookupError) as error:
        raise Problem(400, "refused-by-pump", f"the pump refused the message: {said(error)}") from error
    except Exception as error:
        raise _failed("inject", error) from error


async def call_steering(what: str, method: Callable[..., object], *args: str) -> object:
    """Ask the pump to do something; any failure of it is a Problem 500."""
    try:
        return await call(method, *args)
    except (Problem, XmlPipelineError):
        raise
    except Exception as error:
        raise _failed(what, error) from error


def arranged(method: Callable[..., object], values: dict[str, object]) -> tuple[list[object], dict[str, object]]:
    """The arguments for a function: by its names for them as far as it has them, else in their order."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return [], values
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return [], values
    named = {parameter.name: values[parameter.name] for parameter in parameters if parameter.name in values}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _GATHERING]
    if needed and not all(name in named for name in needed):
        count = sum(parameter.kind in _BY_ORDER for parameter in parameters)
        return list(values.values())[:count], {}
    return [], named


def said(error: BaseException) -> str:
    """What an error says: a KeyError only quotes its key."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error) or type(error).__name__


def _failed(what: str, error: Exception) -> Problem:
    log.error("pump.failed", what=what, exc_info=error)
    return Problem(500, "pump-failed", f"the pump failed to {what}")
