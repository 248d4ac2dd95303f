"""What /metrics shows. Requests are counted in plain dicts: it happens on every request, in one thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

from headstart.errors import HeadstartError
from headstart.queue import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from headstart.entities import JobCounts
    from headstart.store import Store
    from service.doorbell import Doorbell
    from service.feed import Feed
    from service.snapshot import Snapshots

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STORE_SECONDS = 5.0  # how long counts read from the store are shown again


@dataclass(slots=True)
class _Latency:
    """Requests of one (route, method, status): how many fell in each bucket, and their seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


class RequestMetrics:
    """Counts and latencies by route template, method and status."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], _Latency] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (route, method, status)
        latency = self._seen.get(key)
        if latency is None:
            latency = self._seen[key] = _Latency()
        latency.counts[bisect_left(BUCKETS, seconds)] += 1
        latency.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the families that Prometheus reads."""
        labels = ["route", "method", "status"]
        requests = CounterMetricFamily("headstart_requests", "Requests answered.", labels=labels)
        latency = HistogramMetricFamily(
            "headstart_request_seconds", "Seconds from request to answer.", labels=labels
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        for (route, method, status), seen in list(self._seen.items()):
            values = [route, method, str(status)]
            cumulative = list(accumulate(seen.counts))
            requests.add_metric(values, cumulative[-1])
            latency.add_metric(values, list(zip(bounds, cumulative, strict=True)), seen.seconds)
        yield requests
        yield latency


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the store counts."""

    quarantined: dict[str, int]
    imports: dict[str, int]
    deliveries: dict[str, int]
    jobs: JobCounts


class _StoreMetrics:
    """What the store counts, read at most every few seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counted_at = -STORE_SECONDS
        self._counts: _Counts | None = None

    def collect(self) -> Iterator[Metric]:
        counts = self._read_counts()
        if counts is None:
            return  # no number is better than an old one; /readyz says why
        jobs, none = counts.jobs, dict.fromkeys(QUEUES, 0)
        yield _by_label("headstart_scores_quarantined", "Quarantined scores.", "reason", counts.quarantined)
        yield _by_label("headstart_imports", "Imports.", "state", counts.imports)
        yield _by_label("headstart_deliveries", "Webhooks.", "state", counts.deliveries)
        yield _by_label("headstart_jobs", "Jobs.", "state", jobs.by_state)
        yield _by_label("headstart_jobs_failed", "Failed jobs.", "failure", jobs.by_failure)
        yield _by_label("headstart_queue_depth", "Jobs that wait.", "queue", none | jobs.depth)
        yield _by_label(
            "headstart_queue_oldest_seconds",
            "How long the oldest waiting job has been due.",
            "queue",
            none | jobs.oldest_seconds,
        )
        seconds = SummaryMetricFamily(
            "headstart_job_seconds", "Seconds that succeeded jobs ran.", labels=["method"]
        )
        for method, (count, total) in jobs.succeeded.items():
            seconds.add_metric([method], count, total)
        yield seconds

    def _read_counts(self) -> _Counts | None:
        if time.monotonic() - self._counted_at >= STORE_SECONDS:
            store = self._store
            try:
                self._counts = _Counts(
                    store.quarantine_counts(),
                    store.import_counts(),
                    store.delivery_counts(),
                    store.job_counts(),
                )
            except HeadstartError:
                return None
            self._counted_at = time.monotonic()
        return self._counts


class _ProcessMetrics:
    """What this process answers from, and how it gets on with the broker and with who listens."""

    def __init__(self, snapshots: Snapshots, doorbell: Doorbell, feed: Feed) -> None:
        self._snapshots = snapshots
        self._doorbell = doorbell
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        current = self._snapshots.current
        if current is not None:
            yield GaugeMetricFamily(
                "headstart_evidence_version",
                "Version of the evidence answered from.",
                current.evidence_version,
            )
            yield GaugeMetricFamily(
                "headstart_snapshot_age_seconds",
                "Seconds since the snapshot in use was loaded.",
                max(0.0, time.time() - current.loaded_at),
            )
        broker = self._doorbell.broker()
        if broker != "none":
            yield GaugeMetricFamily(
                "headstart_broker_up", "Whether the broker answers.", float(broker == "ok")
            )
        yield GaugeMetricFamily(
            "headstart_event_streams", "Open streams of job events.", self._feed.listening
        )


def _by_label(name: str, text: str, label: str, counts: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


class Exposition:
    """All metrics of one app, in a registry of its own so that two apps live in one process."""

    def __init__(
        self, requests: RequestMetrics, store: Store, snapshots: Snapshots, doorbell: Doorbell, feed: Feed
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        processes = _ProcessMetrics(snapshots, doorbell, feed)
        collectors: Iterable[Any] = (requests, processes, _StoreMetrics(store))
        for collector in collectors:
            self._registry.register(collector)

    def text(self) -> bytes:
        """Render the Prometheus text format."""
        return generate_latest(self._registry)
