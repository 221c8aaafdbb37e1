"""What Prometheus reads of a service."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

_NAMESPACE = "hpo_serve"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        named = partial(Counter, namespace=_NAMESPACE, registry=self._registry)
        self._requests = named("requests", "Requests answered.", ["method", "route", "status"])
        self._encoded = named("texts_encoded", "Texts that the encoder has read.")
        self._events = named("scene_events", "Scenes adapted, hit, unknown, evicted and removed.", ["event"])
        spread = partial(Histogram, namespace=_NAMESPACE, registry=self._registry)
        words = "Seconds from a request's arrival to the end of its answer."
        self._seconds = spread("request_seconds", words, ["route"], buckets=_SECONDS)
        self._calls = spread("batch_requests", "Calls joined into a batch of the encoder.", buckets=_SIZES)
        self._texts = spread("batch_texts", "Distinct texts of a batch of the encoder.", buckets=_SIZES)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, calls: int, texts: int) -> None:
        """Count a batch of the encoder."""
        self._calls.observe(calls)
        self._texts.observe(texts)
        self._encoded.inc(texts)

    def scene(self, event: str) -> None:
        """Count what happened to a scene."""
        self._events.labels(event).inc()

    def watch(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Show a value as it is when it is asked for."""
        Gauge(name, words, namespace=_NAMESPACE, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)
