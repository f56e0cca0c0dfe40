"""One value of one metric at one time."""

from __future__ import annotations

from typing import NamedTuple

from xml_pipeline.metrics.catalogue import Metric


class Reading(NamedTuple):
    """`labels`: their values, in the order of the metric's."""

    metric: Metric
    labels: tuple[str, ...]
    value: float
