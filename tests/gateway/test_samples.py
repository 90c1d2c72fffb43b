from prometheus_client import CollectorRegistry, generate_latest

from gateway import samples
from gateway.telemetry import Metrics


def process(calls: int, *, in_flight: int = 0) -> Metrics:
    """What an HTTP process counts that has answered so many calls."""
    metrics = Metrics(0.1)
    metrics.in_flight = in_flight
    for _ in range(calls):
        metrics.requests.labels("embeddings", "m", "ok").inc()
        metrics.request_s.labels("embeddings", "m").observe(0.015)
    return metrics


def page(pages: list[list[samples.Family]]) -> CollectorRegistry:
    """A registry of what all of them count."""
    registry = CollectorRegistry()
    registry.register(samples.Pages(lambda: pages))
    return registry


LABELS = {"route": "embeddings", "model": "m"}


def test_counters_histograms_and_what_is_in_flight_are_added() -> None:
    pages = [samples.read(process(2, in_flight=1).registry), samples.read(process(3, in_flight=4).registry)]

    whole = page(pages)

    assert whole.get_sample_value("headrace_requests_total", {**LABELS, "outcome": "ok"}) == 5
    assert whole.get_sample_value("headrace_request_seconds_bucket", {**LABELS, "le": "0.02"}) == 5
    assert whole.get_sample_value("headrace_request_seconds_bucket", {**LABELS, "le": "0.01"}) == 0
    assert whole.get_sample_value("headrace_in_flight") == 5


def test_what_every_process_says_alike_is_said_once() -> None:
    pages = [samples.read(process(1).registry) for _ in range(3)]

    text = generate_latest(page(pages)).decode()

    [line] = [line for line in text.splitlines() if line.startswith("headrace_build_info")]
    assert line.endswith(" 1.0")


def test_one_process_alone_reads_as_it_would_by_itself() -> None:
    metrics = process(2, in_flight=1)

    assert generate_latest(page([samples.read(metrics.registry)])) == generate_latest(metrics.registry)


def test_what_a_process_counted_outlives_it_and_how_it_was_does_not() -> None:
    gone, here = samples.read(process(2, in_flight=7).registry), samples.read(process(3).registry)

    whole = page([samples.lasting(gone), here])

    assert whole.get_sample_value("headrace_requests_total", {**LABELS, "outcome": "ok"}) == 5
    assert whole.get_sample_value("headrace_in_flight") == 0


def test_a_counter_is_as_old_as_the_oldest_process() -> None:
    older, newer = (samples.read(process(1).registry) for _ in range(2))

    def created(registry: CollectorRegistry) -> float | None:
        return registry.get_sample_value("headrace_requests_created", {**LABELS, "outcome": "ok"})

    assert created(page([newer, older])) == created(page([older]))
