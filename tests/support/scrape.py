"""What a process tells at /metrics, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from xml_pipeline.metrics.registry import Metrics


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer: the type of each family, and the values by name and labels."""

    types: Mapping[str, str]
    labels: Mapping[str, frozenset[str]]
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name with these labels, 0 without any."""
        wanted = set(labels.items())
        return sum(value for (sample, given), value in self.values.items() if sample == name and wanted <= given)

    @property
    def names(self) -> set[str]:
        """The names of all families, a counter's with its `_total`."""
        return {name + "_total" if kind == "counter" else name for name, kind in self.types.items()}


def scrape(url: str) -> Scrape:
    """Ask once."""
    answer = httpx.get(f"{url}/metrics", timeout=20.0).raise_for_status()
    return parsed(answer.text)


def parsed(text: str) -> Scrape:
    """An answer in Prometheus' text format."""
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    if len(set(names)) != len(names):
        raise AssertionError(f"told twice: {sorted(name for name in names if names.count(name) > 1)}")
    return Scrape(
        types={family.name: family.type for family in families},
        labels={
            family.name: frozenset(label for sample in family.samples for label in sample.labels if label != "le")
            for family in families
        },
        values={
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        },
    )


def merged_total(scrapes: list[Scrape], name: str, **labels: str) -> float:
    """Over several processes."""
    return sum(one.total(name, **labels) for one in scrapes)


async def told(metrics: Metrics) -> Scrape:
    """What would be answered now."""
    return parsed((await metrics.told())[0].decode())
