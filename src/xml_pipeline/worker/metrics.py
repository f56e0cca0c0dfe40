"""What a worker counts, in the parent: no handler's code has a say in it but for the names of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from xml_pipeline.envelope.model import Outcome
from xml_pipeline.metrics import catalogue
from xml_pipeline.metrics.labels import FewNames
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.worker.jobs import Job


class WorkerMetrics:
    """The counters of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waits = metrics.histogram(catalogue.WORKER_WAIT)
        self._runs = metrics.histogram(catalogue.HANDLER)
        self._deaths = metrics.counter(catalogue.CHILD_DEATHS)
        self._holds = metrics.histogram(catalogue.HOLD_WAIT)
        self._calls = metrics.histogram(catalogue.LLM_CALL)
        self._models = FewNames()

    def finished(self, job: Job, outcome: Outcome, now: float) -> None:
        """A job has ended; `now` is by the monotonic clock. One that no child ever began has not run."""
        if job.began_at is not None:
            self._waits.labels(job.listener).observe(job.waited)
            self._runs.labels(job.listener, outcome).observe(now - job.began_at)

    def child_died(self) -> None:
        """Unasked."""
        self._deaths.inc()

    def hold_answered(self, state: str, seconds: float) -> None:
        """The ledger has granted or denied a hold."""
        self._holds.labels(state).observe(seconds)

    def call_answered(self, model: str, latency_ms: float) -> None:
        """An LLM has answered, as the handler's process says."""
        self._calls.labels(self._models.label(model)).observe(latency_ms / 1000)

    def tell(
        self,
        jobs: Callable[[], Iterable[str]],
        served: Callable[[], tuple[tuple[str, ...], int]],
        children: Callable[[], int],
        wanted: Callable[[], int],
    ) -> None:
        """What is looked at when somebody asks: the listener of each job; whom it serves, and how many at once."""

        def read() -> Iterator[Reading]:
            in_hand, (listeners, concurrency) = Counter(jobs()), served()
            for name in listeners:
                yield Reading(catalogue.JOBS, (name,), in_hand[name])
                yield Reading(catalogue.CAPACITY, (name,), concurrency)
            yield Reading(catalogue.CHILDREN, (), children())
            yield Reading(catalogue.HOLDS_WANTED, (), wanted())

        gauges = (catalogue.JOBS, catalogue.CAPACITY, catalogue.CHILDREN, catalogue.HOLDS_WANTED)
        self._metrics.read(gauges, read)
