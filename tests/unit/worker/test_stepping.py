from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from xml_pipeline.worker.marker import Marker, make_marker_file
from xml_pipeline.worker.stepping import HandlerExit, RunScope, Stepper


@pytest.fixture
def marker() -> Iterator[Marker]:
    descriptor = make_marker_file()
    marker = Marker(descriptor)
    os.close(descriptor)
    yield marker
    marker.close()


@pytest.fixture
async def stepper(marker: Marker) -> AsyncIterator[Stepper]:
    loop = asyncio.get_running_loop()
    stepper = Stepper(marker)
    stepper.install(loop)
    yield stepper
    loop.set_task_factory(None)


async def test_every_step_is_marked_as_its_run(marker: Marker, stepper: Stepper) -> None:
    seen: list[int] = []

    async def handler() -> None:
        for _ in range(3):
            seen.append(marker.step[0])
            await asyncio.sleep(0)

    runs = [stepper.start(RunScope(run), handler()) for run in (7, 8)]
    await asyncio.gather(*runs)
    assert sorted(seen) == [7, 7, 7, 8, 8, 8]
    assert marker.step[0] == 0


async def test_tasks_of_a_handler_are_marked(marker: Marker, stepper: Stepper) -> None:
    async def part() -> int:
        await asyncio.sleep(0)
        return marker.step[0]

    async def handler() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part()) for _ in range(2)]
        return [task.result() for task in tasks] + list(await asyncio.gather(part(), part()))

    assert await stepper.start(RunScope(5), handler()) == [5, 5, 5, 5]


async def test_an_exit_is_an_error_of_the_handler(stepper: Stepper) -> None:
    async def handler() -> None:
        raise SystemExit(3)

    with pytest.raises(HandlerExit):
        await stepper.start(RunScope(1), handler())


async def test_what_a_handler_left_behind_is_cancelled(stepper: Stepper) -> None:
    left: list[asyncio.Task[bool]] = []

    async def handler() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))

    scope = RunScope(1)
    await stepper.start(scope, handler())
    scope.cancel_leftovers()
    with pytest.raises(asyncio.CancelledError):
        await left[0]


async def test_anyio_works_in_handlers(stepper: Stepper) -> None:
    done: list[int] = []

    async def part(number: int) -> None:
        await anyio.sleep(0.001)
        done.append(number)

    async def handler() -> bool:
        async with anyio.create_task_group() as group:
            group.start_soon(part, 1)
            group.start_soon(part, 2)
        with anyio.move_on_after(0.01) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
        return scope.cancelled_caught

    assert await stepper.start(RunScope(1), handler())
    assert sorted(done) == [1, 2]
