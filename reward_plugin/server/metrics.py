"""What /metrics tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

#: Seconds; a picture takes milliseconds, a batch on a busy server up to minutes.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one application; resident memory and CPU time come from the process (on Linux)."""

    def __init__(
        self,
        jobs: Callable[[], float],
        held_bytes: Callable[[], float],
        is_ready: Callable[[], float],
    ) -> None:
        """Start at zero.

        Args:
            jobs: how many jobs wait or are scored.
            held_bytes: bytes of the requests that are held.
            is_ready: 1 when scores can be made, else 0.
        """
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "reward_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.errors = Counter(
            "reward_errors", "Requests that failed, by kind of error.", ("kind",), registry=registry
        )
        self.images = Counter(
            "reward_images",
            "Pictures by outcome: scored, or missing a score.",
            ("outcome",),
            registry=registry,
        )
        # at zero from the start: of a counter that begins with its first event, Prometheus sees no increase
        for kind in ("scorer_failed", "internal", "token", "busy"):
            self.errors.labels(kind)
        for outcome in ("scored", "missing"):
            self.images.labels(outcome)
        for status in ("200", "503"):
            self.requests.labels("/v1/score", status)
        self.waiting = Histogram(
            "reward_waiting_seconds",
            "Seconds before a request was scored.",
            registry=registry,
            buckets=BUCKETS,
        )
        self.scoring = Histogram(
            "reward_scoring_seconds", "Seconds that scoring took.", registry=registry, buckets=BUCKETS
        )
        self.answering = Histogram(
            "reward_request_seconds",
            "Seconds from the head of a score request to the end of its answer.",
            registry=registry,
            buckets=BUCKETS,
        )
        for name, text, value in (
            ("reward_queue_jobs", "Requests that wait or are scored.", jobs),
            ("reward_held_bytes", "Bytes of requests that are read, wait or are scored.", held_bytes),
            ("reward_ready", "1 when scores can be made.", is_ready),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def observe(self, waited: float, scored: float) -> None:
        """One job's seconds of waiting and of scoring; from any thread."""
        self.waiting.observe(waited)
        self.scoring.observe(scored)

    def count_images(self, total: int, missing: int) -> None:
        """The pictures of one answer."""
        self.images.labels("scored").inc(total - missing)
        self.images.labels("missing").inc(missing)
