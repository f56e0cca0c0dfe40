"""`docker compose up`, for real: started, scaled under load, broken, replaced, and counted. `make compose-test`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tests.compose import engine
from tests.compose.client import Client
from tests.compose.engine import compose

MEGABYTES = 250
EACH_STEP = 60
_SERVICES = ("gateway", "router", "usage", "agent-worker")


def main() -> int:
    """0 when nothing was lost or doubled, or when there is no engine, which it says."""
    if not engine.reachable():
        print("compose-test: no Docker engine with Compose 2 answers here; nothing was tried")
        return 0
    for line in engine.provide_images():
        print(f"compose-test: {line}")
    try:
        return _try()
    except engine.ComposeFailed as error:
        print(f"compose-test: failed: {error}")
        return 1
    finally:
        compose("down", "--volumes", "--timeout", "20")


def _try() -> int:
    timed("build", lambda: compose("build"))
    sizes = engine.sizes()
    print(f"compose-test: {sizes}, in MB")
    timed("first start", lambda: compose("up", "--detach"))
    client = Client(compose("exec", "-T", "gateway", "cat", "/run/api-key/first").strip())
    try:
        client.inject(1)
        timed("first answer", client.statuses)
        sent = 1
        for name, step in _steps():
            client.inject(EACH_STEP)
            sent += EACH_STEP
            timed(name, step)
        found = client.statuses()
        calls = client.get("/usage")["usage"]["totals"]["requestCount"]
    finally:
        client.close()
    timed("audit", lambda: compose("run", "--rm", "migrate", "audit"))
    print(f"compose-test: {sent} threads {dict(found)}, {calls} calls booked")
    faults = [
        *(f"{name} has {size} MB" for name, size in sizes.items() if size > MEGABYTES),
        *([] if found == {"completed": sent} else ["not every thread was completed"]),
        *([] if calls == sent else [f"{calls} calls were booked for {sent} threads"]),
    ]
    for fault in faults:
        print(f"compose-test: failed: {fault}")
    print(f"compose-test: {'failed' if faults else 'passed'}")
    return 1 if faults else 0


def _steps() -> list[tuple[str, Callable[[], object]]]:
    """What is done to the organism while a client injects."""
    return [
        ("scale agent-worker to 4", lambda: _scale(4)),
        ("scale agent-worker to 2", lambda: _scale(2)),
        *((f"kill {name}", _killing(name)) for name in _SERVICES),
        ("restart rabbitmq", lambda: compose("restart", "rabbitmq")),
        ("restart postgres", lambda: compose("restart", "postgres")),
        *((f"replace {name}", _replacing(name)) for name in _SERVICES),
    ]


def _scale(count: int) -> None:
    compose("up", "--detach", "--no-recreate", "--no-deps", "--scale", f"agent-worker={count}", "agent-worker")
    running = len(engine.containers("agent-worker"))
    if running != count:
        raise engine.ComposeFailed(f"{running} agent-workers run, not {count}")


def _killing(service: str) -> Callable[[], None]:
    return lambda: engine.kill_process_of(service)


def _replacing(service: str) -> Callable[[], object]:
    scale = ("--scale", "agent-worker=2") if service == "agent-worker" else ()
    return lambda: compose("up", "--detach", "--no-deps", "--force-recreate", *scale, service)


def timed(name: str, step: Callable[[], object]) -> None:
    """Do it, and say how many seconds it took."""
    began = time.monotonic()
    step()
    print(f"compose-test: {name}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
