"""An organism of handlers that behave in every way."""

from __future__ import annotations

LISTENERS = """
- name: calm
  agent: true
  peers: [other]
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.calm
  description: answers
- name: other
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.calm
  description: answers
- name: slow
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.slow
  description: waits
- name: raises
  payload_class: zoo.Ask
  handler: zoo.raises
  description: raises
- name: exits
  payload_class: zoo.Ask
  handler: zoo.exits
  description: exits
- name: dies
  payload_class: zoo.Ask
  handler: zoo.dies
  description: kills its process
- name: dies_later
  payload_class: zoo.Ask
  handler: zoo.dies_later
  description: kills its process from a callback
- name: hangs
  payload_class: zoo.Ask
  handler: zoo.hangs
  description: waits for ever
- name: stubborn
  payload_class: zoo.Ask
  handler: zoo.stubborn
  description: ignores cancellation
- name: blocks
  payload_class: zoo.Ask
  handler: zoo.blocks
  description: blocks the event loop
- name: rubbish
  payload_class: zoo.Ask
  handler: zoo.rubbish
  description: returns what is no response
- name: prints
  payload_class: zoo.Ask
  handler: zoo.prints
  description: writes to its standard output
- name: asks
  agent: true
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.asks
  description: completes
- name: insists
  agent: true
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.insists
  description: completes, and goes on whatever comes of it
- name: looks
  payload_class: zoo.Ask
  response_class: zoo.Told
  handler: zoo.looks
  description: tells what it knows
"""

MODULE = """
from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

from pydantic import BaseModel

from xml_pipeline.llm import complete
from xml_pipeline.worker import HandlerMetadata, HandlerResponse, SystemError


class Ask(BaseModel):
    text: str


class Told(BaseModel):
    text: str


async def calm(payload: Ask | Told | SystemError, metadata: HandlerMetadata) -> HandlerResponse:
    if isinstance(payload, Ask) and payload.text == "both":
        return [HandlerResponse(Ask(text="x"), to="other"), HandlerResponse.respond(Told(text="y"))]
    if isinstance(payload, Ask) and payload.text.startswith("<"):
        return HandlerResponse(payload.text, to="other")
    if isinstance(payload, Ask) and payload.text == "control":
        return HandlerResponse.respond(Told(text="\\x00"))
    return HandlerResponse.respond(Told(text=f"{payload.text}!"))


async def slow(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    with Path(payload.text).open("a") as log:
        log.write(f"{os.getpid()}\\n")
    gate = Path(payload.text + ".go")
    while not gate.exists():
        await asyncio.sleep(0.01)
    return HandlerResponse.respond(Told(text="done"))


async def raises(payload: Ask, metadata: HandlerMetadata) -> None:
    raise ValueError("bad \\x00 luck" + "k" * 10000)


async def exits(payload: Ask, metadata: HandlerMetadata) -> None:
    sys.exit(3)


async def dies(payload: Ask, metadata: HandlerMetadata) -> None:
    os._exit(7)


async def dies_later(payload: Ask, metadata: HandlerMetadata) -> None:
    asyncio.get_running_loop().call_later(0.05, os._exit, 8)
    await asyncio.sleep(3600)



async def hangs(payload: Ask, metadata: HandlerMetadata) -> None:
    await asyncio.sleep(3600)


async def stubborn(payload: Ask, metadata: HandlerMetadata) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def blocks(payload: Ask, metadata: HandlerMetadata) -> None:
    time.sleep(3600)




async def rubbish(payload: Ask, metadata: HandlerMetadata) -> object:
    return {
        "text": "hello",
        "dict": {"a": 1},
        "list": [HandlerResponse.respond(Told(text="x")), 3],
        "class": HandlerResponse.respond(Told),
        "number": HandlerResponse.respond(3),
        "nothing": HandlerResponse.respond(None),
        "target": HandlerResponse(Told(text="x"), to=5),
        "nul": HandlerResponse(Told(text="x"), to="a\\x00b"),
    }[payload.text]


async def prints(payload: Ask, metadata: HandlerMetadata) -> None:
    print("\\x00" * 100_000)
    os.write(1, b"noise")


async def asks(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    reply = await complete(payload.text)
    return HandlerResponse.respond(Told(text=reply.text))


async def insists(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    caught = ""
    for way in payload.text.split():
        try:
            if way == "together":
                await asyncio.gather(complete("a"), complete("b"), return_exceptions=True)
            else:
                await asyncio.wait_for(complete("a"), 10)
        except asyncio.CancelledError:
            if way != "stubborn":
                raise
        except Exception as error:
            caught = repr(error)
    return HandlerResponse.respond(Told(text=caught))


async def looks(payload: Ask | Told | SystemError, metadata: HandlerMetadata) -> HandlerResponse:
    known = [
        metadata.kind, metadata.from_id, metadata.agent, str(metadata.remaining), str(metadata.attempt),
        metadata.thread_id, metadata.call, *(reply.text for reply in metadata.replies),
    ]
    return HandlerResponse.respond(Told(text="|".join(known)))
"""
