"""The client and servers that are slow, busy, dead or wrong, over real sockets."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from reward_plugin.answers import Answer
from reward_plugin.app import build_app
from reward_plugin.client import RewardClient
from reward_plugin.errors import (
    BadImage,
    ProtocolError,
    RequestRefused,
    ScorerFailed,
    ServerBusy,
    ServerUnavailable,
)
from reward_plugin.failover import PROBE, Failover
from reward_plugin.retry import Backoff
from tests.reward.helpers import ChannelMeans, plain
from tests.reward.serving import until
from tests.reward.transports import InMemory, Unreliable, unused_url


def different(count: int) -> list[np.ndarray]:
    return [plain(i, 0) for i in range(count)]


def test_failures_are_retried_with_growing_waits():
    with Unreliable(502, "hang up", 503, 200) as server, RewardClient(server.url, max_outage=20) as client:
        assert client.score([plain(0, 0)]).values.tolist() == [[42]]
        waits = np.diff(server.times)
    assert len(waits) == 3
    assert (waits > [0.12, 0.24, 0.49]).all()  # 0.25, 0.5, 1 seconds, each times at least 0.5


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_not_now_is_tried_again(status: int):
    with Unreliable(status, 200) as server, RewardClient(server.url, max_outage=20) as client:
        assert client.score([plain(0, 0)]).values.tolist() == [[42]]
    busy = status in (429, 503)
    with Unreliable(status) as server, RewardClient(server.url, max_outage=0) as client:
        with pytest.raises(ServerUnavailable, match=f"HTTP {status}") as caught:
            client.score([plain(0, 0)])
    assert isinstance(caught.value, ServerBusy) is busy


def test_what_is_sent_again_is_sent_whole():
    with Unreliable(502, 200) as server, RewardClient(server.url, max_outage=20) as client:
        client.score([plain(0, 0, (300, 400))])
        first, second = server.bodies
    assert first == second and len(first) > 300 * 400 * 3


def test_retry_after_is_honoured():
    with Unreliable((503, {"Retry-After": "1"}), 200) as server, RewardClient(server.url) as client:
        client.score([plain(0, 0)])
        assert np.diff(server.times)[0] >= 1


def retry_after(text: str) -> float:
    return Answer("", 503, {"retry-after": text}, b"").retry_after


def test_retry_after_may_be_a_date():
    assert retry_after("2.5") == 2.5
    soon = datetime.now(UTC) + timedelta(seconds=90)
    assert 80 < retry_after(format_datetime(soon, usegmt=True)) <= 90
    assert 80 < retry_after(format_datetime(soon.astimezone(timezone(timedelta(hours=3))))) <= 90
    for text in (
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "later",
        "",
        "-3",
        "inf",
        "nan",
        "Mon, 1 Jan 1 00:00 +2359",
    ):
        assert retry_after(text) == 0, text


def test_a_busy_server_is_given_up_on_in_time():
    busy = (503, {"Retry-After": "30"})
    with Unreliable(busy) as server, RewardClient(server.url, max_outage=1) as client:
        with pytest.raises(ServerBusy, match=rf"{server.url} gave no usable answer for \d s .*HTTP 503: no"):
            client.score([plain(0, 0)])
        assert len(server.times) == 1


def test_a_dead_server_is_named_with_the_wait_and_the_remedy():
    url = unused_url()
    with RewardClient(url, max_outage=0.8) as client:
        started = time.monotonic()
        with pytest.raises(
            ServerUnavailable, match=rf"{url} gave no usable answer for \d s .*reward_plugin serve"
        ):
            client.score([plain(0, 0)])
        assert time.monotonic() - started < 30
        with pytest.raises(ServerUnavailable, match=rf"{url} was not ready after \d s"):
            client.wait_ready(0.3)


def test_an_outage_ends_a_large_call_once_and_not_once_for_every_request():
    with Unreliable(502) as server:
        with RewardClient(server.url, max_outage=1, batch_size=1, concurrency=2) as client:
            started = time.monotonic()
            with pytest.raises(ServerUnavailable):
                client.score(different(60))  # 30 turns of the threads
            assert time.monotonic() - started < 15
        assert len(server.times) < 10


def test_a_request_that_servers_do_not_survive_is_given_up_on_though_others_are_answered(
    channels: ChannelMeans,
):
    class Fragile(InMemory):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if b"kills it" in request.read():
                raise httpx.ReadError("the connection is gone")
            return super().handle_request(request)

    with TestClient(build_app([channels])) as app:
        with RewardClient(["http://a", "http://b"], max_outage=1, transport=Fragile(app)) as client:
            deadly = client.submit([plain(0, 0)], ["kills it"])
            number = 0
            while not deadly.done():
                number += 1
                assert client.score([plain(number % 256, number // 256)], ["a"], 60).errors == (None,)
            with pytest.raises(ServerUnavailable, match="the connection is gone"):
                deadly.result()
            assert number > 1


def test_a_live_server_takes_over_and_the_dead_one_is_left_alone(caplog: pytest.LogCaptureFixture):
    with Unreliable(200) as server, Unreliable("hang up") as dead:
        with RewardClient([dead.url, server.url], max_outage=20) as client:
            for number in range(8):
                started = time.monotonic()
                assert client.score([plain(number, 0)]).values.tolist() == [[42]]
                if number:
                    assert time.monotonic() - started < 10
        assert len(server.times) == 8
        # 0.125 s or more after the first failure, then twice that, and so on: not before every request.
        assert len(dead.times) < 5
    told = [record.message for record in caplog.records if dead.url in record.message]
    assert len(told) == 1 and "the others take its pictures" in told[0]


LATE = r"deadline of 0\.5 s"


def test_a_call_has_a_deadline_whatever_its_requests_do(caplog: pytest.LogCaptureFixture):
    over = threading.Event()
    with Unreliable(lambda: over.wait(100), 200) as slow:
        with RewardClient(slow.url, concurrency=1) as client:
            with pytest.raises(ServerUnavailable, match=LATE):
                client.score([plain(0, 0)], deadline=0.5)
            # The only thread has time again, though the server still hangs, and does not hold it to be dead.
            assert client.score([plain(1, 0)], deadline=60).values.tolist() == [[42]]
        over.set()
    assert slow.url not in caplog.text


def test_a_deadline_ends_the_waits_between_attempts():
    with Unreliable((503, {"Retry-After": "100"})) as busy:
        with RewardClient(busy.url, max_outage=300, concurrency=1) as client:
            with pytest.raises(ServerUnavailable, match=LATE):
                client.submit([plain(0, 0)], deadline=0.5).result(60)
            assert client._session._requests.submit(len, "abc").result(60) == 3


def test_a_deadline_counts_while_a_call_waits_for_its_turn_or_for_another_call():
    over = threading.Event()
    with Unreliable(lambda: over.wait(100)) as slow:
        for concurrency in (1, 2):  # there is a thread for it, or there is none
            with RewardClient(slow.url, concurrency=concurrency) as client:
                first = client.submit([plain(0, 0)])
                until(lambda: slow.times)
                with pytest.raises(ServerUnavailable, match=LATE):
                    client.submit([plain(0, 0)], deadline=0.5).result(60)  # what the first one gets just now
                if concurrency == 2:
                    assert client._session._requests.submit(len, "abc").result(60) == 3
                assert not first.done()
                over.set()
                assert first.result(60).values.tolist() == [[42]]
            over.clear()
            slow.times.clear()
        over.set()


def test_an_outcome_in_time_is_that_of_the_work():
    with Unreliable(500) as broken, RewardClient(broken.url) as client:
        with pytest.raises(ScorerFailed, match="HTTP 500"):
            client.score([plain(0, 0)], deadline=60)


def test_another_servers_model_is_tried_where_one_fails():
    with Unreliable(500) as broken, Unreliable(200) as server:
        with RewardClient([broken.url, server.url]) as client:
            for number in range(4):
                assert client.score([plain(number, 0)]).values.tolist() == [[42]]
        with RewardClient(broken.url) as client, pytest.raises(ScorerFailed, match="HTTP 500: no"):
            client.score([plain(0, 0)])


def test_a_refusal_is_not_retried():
    for status in (400, 401, 404, 408, 418):
        with Unreliable(status) as server, RewardClient(server.url) as client:
            with pytest.raises(RequestRefused, match=f"{server.url}: HTTP {status}: no"):
                client.score([plain(0, 0)])
            assert len(server.times) == 1


def test_a_bad_picture_is_missing_and_a_dead_server_is_an_error(channels: ChannelMeans):
    bad, good = b"no picture", plain(3, 4)
    with TestClient(build_app([channels])) as app:
        with RewardClient("http://server", transport=InMemory(app)) as client:
            table = client.score([bad, good])
    assert np.isnan(table.values[0]).all() and "not one of PNG" in (table.errors[0] or "")
    assert table.values[1].tolist() == [3, 4]
    with RewardClient(unused_url(), max_outage=0.2) as client, pytest.raises(ServerUnavailable) as caught:
        client.score([bad, good])
    assert not isinstance(caught.value, BadImage)


def test_another_service_on_the_port_is_noticed():
    with Unreliable(200) as server, RewardClient(server.url) as client:
        with pytest.raises(ProtocolError, match=r"2 images were sent as \w+, 1 scores came back"):
            client.score(different(2))
    with Unreliable(200, describe=False) as server, RewardClient(server.url) as client:
        with pytest.raises(RequestRefused, match="404"):
            client.score([plain(0, 0)])


def test_closing_does_not_wait_for_a_dead_server():
    with Unreliable((503, {"Retry-After": "100"})) as busy:
        client = RewardClient(busy.url, max_outage=300)
        future = client.submit([plain(0, 0)])
        until(lambda: busy.times)
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 60
        with pytest.raises(ServerUnavailable, match="closed"):
            future.result(0)


@pytest.mark.parametrize("prompts", [["refuse me", "not now"], ["not now", "refuse me"]])
def test_when_one_part_is_refused_the_others_are_given_up(channels: ChannelMeans, prompts: list[str]):
    asked, busy = threading.Event(), list[str]()

    class Mixed(InMemory):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if b"refuse me" in request.read():
                asked.set()
                until(lambda: len(busy) == 2)  # the other part waits for either server now
                return httpx.Response(400, json={})
            if b"not now" in request.read():
                assert asked.wait(60)
                busy.append(request.url.host)
                return httpx.Response(503, headers={"Retry-After": "100"})
            return super().handle_request(request)

    both = threading.Barrier(2, timeout=60)
    with TestClient(build_app([channels])) as app:
        urls = ["http://a", "http://b"]
        with RewardClient(urls, batch_size=1, concurrency=1, max_outage=300, transport=Mixed(app)) as client:
            with pytest.raises(RequestRefused, match="HTTP 400"):
                client.submit(different(2), prompts).result(60)
            tasks = [client._session._requests.submit(both.wait) for _ in range(2)]
            assert sorted(task.result(60) for task in tasks) == [0, 1]  # both of its threads have time


def test_waits_double_up_to_a_bound():
    backoff = Backoff(first=1, longest=8)
    for failures, expected in enumerate((1, 2, 4, 8, 8), start=1):
        delays = [backoff.delay(failures) for _ in range(200)]
        assert (
            0.5 * expected <= min(delays) < 0.6 * expected and 1.4 * expected < max(delays) <= 1.5 * expected
        )
    assert backoff.delay(10**6) <= 12
    assert 60 <= backoff.delay(1, retry_after=60) <= 75


def test_what_one_request_finds_out_all_know(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    now = 100.0
    failover = Failover(["http://a", "http://b"], 300, Backoff(first=1, longest=8), clock=lambda: now)
    a, b = failover.take(), failover.take()
    assert a and b and (a.url, b.url) == ("http://a", "http://b")
    for _ in range(4):  # four requests under way when the server died are one failure
        failover.failed(a, now - 0.5, "ConnectError")
    assert a.failures == 1 and 100.5 <= a.until <= 101.5
    assert [failover.take() for _ in range(3)] == [b] * 3
    now = 102
    assert a in (failover.take(), failover.take())  # its time is over: one request looks
    assert [failover.take() for _ in range(3)] == [b] * 3
    now += PROBE + 1  # it hangs: the next one looks
    assert a in (failover.take(), failover.take())
    failover.answered(a, started=99)  # an answer from before the failure says nothing
    assert a.failures == 1
    failover.answered(a, started=now)
    assert a.failures == 0 and a in (failover.take(), failover.take())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "reward server http",
        "reward server http",
    ]
    assert "answers again, after 13.0 s" in caplog.records[1].message


def test_a_full_queue_is_news_only_if_it_lasts(caplog: pytest.LogCaptureFixture):
    now = 0.0
    failover = Failover(["http://a"], 300, clock=lambda: now)
    server = failover.servers[0]
    failover.failed(server, now, "HTTP 503", busy=True)
    failover.answered(server, now)
    assert not caplog.records
    for now in (1.0, 6.0, 12.0, 15.0):
        failover.failed(server, now, "HTTP 503", busy=True)
    failover.answered(server, now)
    assert len(caplog.records) == 2 and "no answer for 11 s, max_outage is 300 s" in caplog.records[0].message


@pytest.fixture
def channels() -> ChannelMeans:
    return ChannelMeans()
