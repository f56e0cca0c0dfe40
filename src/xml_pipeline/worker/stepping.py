"""Drives the coroutines of handlers so that the marker always says whose step is being executed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from xml_pipeline.worker.marker import Marker

T = TypeVar("T")


class HandlerExit(Exception):
    """A handler that asked its process to exit: an error of the handler, not the end of its neighbours."""


@dataclass(slots=True, eq=False)
class RunScope:
    """One run and the tasks that were started from it."""

    run: int
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def cancel_leftovers(self) -> None:
        """Cancel what the handler left behind, once each of them has had its first step."""
        if self.tasks:
            asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        for task in tuple(self.tasks):
            task.cancel("its handler has ended")


_scope: ContextVar[RunScope | None] = ContextVar("xml_pipeline_run", default=None)


class Stepped(Coroutine[Any, Any, T]):
    """A coroutine whose every step is marked as a step of its run."""

    __slots__ = ("_coroutine", "_marker", "_run")

    def __init__(self, coroutine: Coroutine[Any, Any, T], marker: Marker, run: int) -> None:
        self._coroutine = coroutine
        self._marker = marker
        self._run = run

    def send(self, value: object) -> object:
        """One step."""
        self._marker.enter(self._run)
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise HandlerExit(repr(error)) from error
        finally:
            self._marker.leave()

    def throw(self, typ: Any, val: object = None, tb: TracebackType | None = None) -> object:  # noqa: ANN401 inherited
        """One step that begins with an exception."""
        self._marker.enter(self._run)
        try:
            return self._coroutine.throw(typ)
        except (SystemExit, KeyboardInterrupt) as error:
            raise HandlerExit(repr(error)) from error
        finally:
            self._marker.leave()

    def close(self) -> None:
        """End it before its end."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> object:
        """What `inspect` and anyio look at: `cr_frame`, `cr_running` and the like."""
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()


class Stepper:
    """Starts runs, and marks all their steps, those of the tasks that they start included."""

    def __init__(self, marker: Marker) -> None:
        self._marker = marker

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have tasks that handlers start marked, too."""
        loop.set_task_factory(self._make_task)

    def start(self, scope: RunScope, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task for one run, in a context of its own."""
        context = copy_context()
        context.run(_scope.set, scope)
        stepped = Stepped(coroutine, self._marker, scope.run)
        return asyncio.Task(stepped, loop=asyncio.get_running_loop(), context=context)

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        context: Context | None = None,
        **more: Any,  # noqa: ANN401 newer Pythons pass more
    ) -> asyncio.Task[Any]:
        scope = _scope.get() if context is None else context.get(_scope)
        if scope is None or not asyncio.iscoroutine(coro):
            return asyncio.Task(coro, loop=loop, context=context, **more)
        task = asyncio.Task(Stepped(coro, self._marker, scope.run), loop=loop, context=context, **more)
        scope.tasks.add(task)
        task.add_done_callback(scope.tasks.discard)
        return task
