"""What /metrics shows. Requests are counted in plain dicts: it happens on every request, in one thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from headstart.store import Store
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


class _EvidenceMetrics:
    """What is known and how fresh it is, read from the snapshot and, at most every few seconds, the store."""

    def __init__(self, store: Store, snapshots: Snapshots) -> None:
        self._store = store
        self._snapshots = snapshots
        self._counted_at = -STORE_SECONDS
        self._counts: tuple[dict[str, int], dict[str, int]] = ({}, {})

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
        quarantined, imports = self._read_counts()
        yield _by_label("headstart_scores_quarantined", "Quarantined scores.", "reason", quarantined)
        yield _by_label("headstart_imports", "Imports.", "state", imports)

    def _read_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        if time.monotonic() - self._counted_at >= STORE_SECONDS:
            try:
                self._counts = (self._store.quarantine_counts(), self._store.import_counts())
            except HeadstartError:
                return ({}, {})  # no number is better than an old one; /readyz says why
            self._counted_at = time.monotonic()
        return self._counts


def _by_label(name: str, text: str, label: str, counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


class Exposition:
    """All metrics of one app, in a registry of its own so that two apps live in one process."""

    def __init__(self, requests: RequestMetrics, store: Store, snapshots: Snapshots) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        collectors: Iterable[Any] = (requests, _EvidenceMetrics(store, snapshots))
        for collector in collectors:
            self._registry.register(collector)

    def text(self) -> bytes:
        """Render the Prometheus text format."""
        return generate_latest(self._registry)
