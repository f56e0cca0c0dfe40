"""The metrics of one process: counted and read by its services, told at /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from xml_pipeline.metrics.catalogue import SNAPSHOT_AGE, Metric
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.snapshot import Snapshot

Read = Callable[[], Iterable[Reading]]
_Made = TypeVar("_Made")


class Metrics:
    """One for a process: services that share it may share a metric, too."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._made: dict[str, object] = {}
        self._readings = _Readings()
        self._snapshots: list[Snapshot] = []
        self._registry.register(self._readings)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def counter(self, metric: Metric) -> Counter:
        """What only grows."""
        return self._once(
            metric, lambda: Counter(metric.name, metric.help, metric.labels, registry=self._registry), Counter
        )

    def histogram(self, metric: Metric) -> Histogram:
        """How long something takes, or how large it is."""
        buckets = metric.buckets
        return self._once(
            metric,
            lambda: Histogram(metric.name, metric.help, metric.labels, registry=self._registry, buckets=buckets),
            Histogram,
        )

    def read(self, metrics: Iterable[Metric], read: Read) -> None:
        """Gauges that are looked at when somebody asks; `metrics` are those that `read` may tell of."""
        self._readings.add(metrics, read)

    @contextmanager
    def read_snapshot(self, metrics: Iterable[Metric], snapshot: Snapshot) -> Iterator[None]:
        """The same, of what has to be asked for elsewhere, as long as the context lasts."""
        self._snapshots.append(snapshot)
        self.read((*metrics, SNAPSHOT_AGE), snapshot.readings)
        try:
            yield
        finally:
            self._snapshots.remove(snapshot)
            self._readings.remove(snapshot.readings)

    async def told(self, accept: str = "") -> tuple[bytes, str]:
        """All of it, and its content type: the one that an Accept header asks for."""
        await asyncio.gather(*(snapshot.refresh() for snapshot in self._snapshots))
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _once(self, metric: Metric, make: Callable[[], _Made], kind: type[_Made]) -> _Made:
        made = self._made.setdefault(metric.name, None) or make()
        self._made[metric.name] = made
        if not isinstance(made, kind):
            raise TypeError(f"{metric.name} is a {type(made).__name__}")
        return made


class _Readings(Collector):
    """All gauges, each as one family, whoever tells of it."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._reads: list[Read] = []

    def add(self, metrics: Iterable[Metric], read: Read) -> None:
        self._metrics |= {metric.name: metric for metric in metrics}
        self._reads.append(read)

    def remove(self, read: Read) -> None:
        self._reads.remove(read)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(name, metric.help, labels=metric.labels) for name, metric in self._metrics.items()
        }
        for read in self._reads:
            for metric, labels, value in read():
                families[metric.name].add_metric(labels, value)
        return iter(families.values())
