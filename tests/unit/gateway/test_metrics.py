"""How a gateway counts its requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry

from nrp_gateway.metrics import RequestDurations


def counted(durations: RequestDurations) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(durations)
    return registry


def test_what_many_threads_count_is_summed_up_and_nothing_is_lost() -> None:
    durations = RequestDurations()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(lambda: [durations.note("GET", "/x", "2", 0.25) for _ in range(1000)])
    registry = counted(durations)
    name = "nrp_http_request_duration_seconds"
    labels = {"method": "GET", "route": "/x", "status": "2xx"}
    assert registry.get_sample_value(f"{name}_count", labels) == 8000
    assert registry.get_sample_value(f"{name}_sum", labels) == 2000


def test_each_duration_is_in_all_buckets_from_its_own_on() -> None:
    durations = RequestDurations()
    for duration_s in (0.001, 0.0011, 100.0):
        durations.note("GET", "/x", "2", duration_s)
    registry = counted(durations)

    def bucket(bound: str) -> float | None:
        labels = {"method": "GET", "route": "/x", "status": "2xx", "le": bound}
        return registry.get_sample_value("nrp_http_request_duration_seconds_bucket", labels)

    assert (bucket("0.001"), bucket("0.0025"), bucket("25.0"), bucket("+Inf")) == (1, 2, 2, 3)


def test_words_that_clients_send_for_a_method_make_no_more_figures() -> None:
    durations = RequestDurations()
    for number in range(100):
        durations.note(f"BREW{number}", None, "4", 0.0)
    (family,) = durations.collect()
    assert {(each.labels["method"], each.labels["route"]) for each in family.samples} == {("other", "other")}
    assert len(durations._by_thread.popitem()[1]) == 1
