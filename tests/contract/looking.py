"""A pump to look at: it offers nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from xml_pipeline.payload import PayloadType


class Greeting(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str


@dataclass
class Shout:
    text: str


class Anything:
    """No model, no dataclass: any class will do."""


@dataclass
class LookingConfig:
    name: str = "hello-world"
    port: int = 8080
    thread_scheduling: str = "breadth-first"
    max_concurrent_pipelines: int = 50
    max_concurrent_handlers: int = 20
    api_key: str = "secret"


@dataclass
class LookingListener:
    name: str
    payload_class: type
    description: str = "Does things"
    is_agent: bool = False
    peers: list[str] = field(default_factory=list)
    schema: str | None = None
    root_tag: str = ""

    def __post_init__(self) -> None:
        self.root_tag = self.root_tag or f"{self.name}.{self.payload_class.__name__}".lower()


def with_schema(listener: LookingListener) -> LookingListener:
    listener.schema = PayloadType(listener.payload_class, listener.root_tag).xsd
    return listener


class LookingPump:
    """The least that a pump has."""

    def __init__(self, *listeners: LookingListener) -> None:
        self.config = LookingConfig()
        self.identity: object | None = None
        self.listeners = {listener.name: listener for listener in listeners}
        self.callbacks: list[Callable[[object], object]] = []

    def subscribe_events(self, callback: Callable[[object], object]) -> None:
        self.callbacks.append(callback)

    def unsubscribe_events(self, callback: Callable[[object], object]) -> None:
        self.callbacks.remove(callback)

    def tell(self, event: object) -> None:
        """Give an event to all who look on."""
        for callback in list(self.callbacks):
            callback(event)


def hello_pump() -> LookingPump:
    """The listeners of hello-world."""
    return LookingPump(
        with_schema(LookingListener("greeter", Greeting, is_agent=True, peers=["shouter"])),
        with_schema(LookingListener("shouter", Shout)),
    )
