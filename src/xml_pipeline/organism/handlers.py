"""What a handler takes, read from its signature."""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

_EVERYTHING = (Any, object, BaseModel, inspect.Parameter.empty)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The classes a handler's payload annotation names; None where it names none and takes everything."""

    classes: tuple[type[Any], ...] | None
    doubt: str | None = None

    def takes(self, cls: type[Any]) -> bool:
        """Tell whether an object of `cls` fits."""
        return self.classes is None or any(issubclass(cls, accepted) for accepted in self.classes)


def handler_fault(handler: object) -> str | None:
    """Say why `handler` is none; None if it is an async callable that takes a payload and metadata."""
    if inspect.isclass(handler) or not callable(handler):
        return "is no function; write it as `async def`"
    if not _is_async(handler):
        return "is not async: write it as `async def`"
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        return "must take two arguments: the payload and the metadata"
    except ValueError:
        return "has no signature that could be read"
    return None


def accepted_payloads(handler: Callable[..., Any]) -> Accepted:
    """Read what the first parameter of `handler` is annotated with."""
    parameters = list(inspect.signature(handler).parameters.values())
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        try:
            annotation = _evaluate(annotation, handler)
        except Exception as error:  # an annotation may hold any expression
            said = f"{type(error).__name__}: {error}"
            return Accepted(None, f"its annotation {annotation!r} cannot be read ({said}), so it is taken to take all")
    members = tuple(_members(annotation))
    if any(member in _EVERYTHING or not inspect.isclass(member) for member in members):
        return Accepted(None)
    doubt = None
    if builtins.SystemError in members:
        doubt = "its SystemError is Python's own: import the one of xml_pipeline.worker"
    return Accepted(members, doubt)


def _members(annotation: object) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif origin is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _evaluate(annotation: str, handler: Callable[..., Any]) -> object:
    function = _function(handler)
    holder = types.SimpleNamespace(__annotations__={"payload": annotation})
    return get_type_hints(holder, globalns=getattr(function, "__globals__", {}), include_extras=True)["payload"]


def _function(handler: Callable[..., Any]) -> object:
    while isinstance(handler, functools.partial):
        handler = handler.func
    unwrapped = inspect.unwrap(handler)
    if inspect.isroutine(unwrapped):
        return getattr(unwrapped, "__func__", unwrapped)
    return inspect.unwrap(type(unwrapped).__call__)


def _is_async(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
